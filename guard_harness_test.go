package main_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/bench/cage"
	"github.com/weir-run/weir/test/programtest"
)

// newCage is a real control group; the test is skipped where there is none.
func newCage(t testing.TB, limits cage.Limits) *cage.Cage {
	t.Helper()
	c, err := cage.New(limits)
	if errors.Is(err, cage.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// caged is a watchdog that runs with its handler in control groups of its own.
type caged struct {
	*served
	cage *cage.Cage
}

// launchCaged starts a watchdog inside, with LISTEN and upstream_url set for a
// handler that serves HTTP. What is in env decides about mode and fprocess.
func launchCaged(t testing.TB, limits cage.Limits, env ...string) *caged {
	t.Helper()
	c := newCage(t, limits)
	address := "127.0.0.1:" + strconv.Itoa(programtest.FreePort(t))
	w := launchCmd(t, c.Command(fwatchdog(t)), append([]string{
		"mode=http", "upstream_url=http://" + address, "LISTEN=" + address, "exec_timeout=1m", "write_timeout=1m", "read_timeout=1m",
	}, env...)...)
	return &caged{&served{w, address, ""}, c}
}

// startCaged is launchCaged for a memory limit and a handler that listens.
func startCaged(t testing.TB, memory int64, command string, env ...string) *caged {
	t.Helper()
	w := launchCaged(t, cage.Limits{Memory: memory}, append([]string{"fprocess=" + command}, env...)...)
	w.waitReady()
	w.waitHandler()
	return w
}

// keep makes the hog keep so much memory from now on.
func (w *caged) keep(mib int) {
	w.t.Helper()
	resp, err := client.Get(fmt.Sprintf("http://%s/keep?mib=%d", w.address, mib)) // past the watchdog
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
}

// holdOne keeps one request in the hog until release is called.
func (s *served) holdOne() (p *pending, release func()) {
	s.t.Helper()
	gate := filepath.Join(s.t.TempDir(), "gate")
	before, _ := s.sample("http_requests_in_flight")
	p = s.background("GET", "/wait?file="+gate, "")
	programtest.Eventually(s.t, "one more is in flight", func() bool {
		n, ok := s.sample("http_requests_in_flight")
		return ok && n > before
	})
	return p, func() { touch(s.t, gate) }
}

// crowd is closed-loop load: each client asks again when it was answered, and
// after a pause when it was refused.
type crowd struct {
	clients int
	path    string
	method  string // GET
	body    string
	time    time.Duration // until when new requests are begun; 0: until each client has a good answer
	pause   time.Duration
	want    string // the body of a good answer
	reasons string // the refusals that are allowed, such as "memory fds"
}

// tally is what a crowd got.
type tally struct {
	good    int
	refused map[string]int
	// odd is whatever was neither a good answer nor a clean refusal, by text.
	odd     map[string]int
	took    time.Duration
	mean    float64 // in flight
	slowest time.Duration
}

func (y *tally) String() string {
	all := 0
	for _, n := range y.refused {
		all += n
	}
	odd := slices.Sorted(maps.Keys(y.odd))
	return fmt.Sprintf("%d good, %d refused %v, mean in flight %.2f over %v, slowest good one %v, %d odd: %v",
		y.good, all, y.refused, y.mean, y.took.Round(time.Millisecond), y.slowest.Round(time.Millisecond), len(odd), odd[:min(len(odd), 5)])
}

// run puts the load on a watchdog. Its clients keep their connections.
func (c crowd) run(w *instance) *tally {
	w.t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: c.clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 2 * programtest.Patience}
	y := &tally{refused: map[string]int{}, odd: map[string]int{}}
	var mu sync.Mutex
	var stop atomic.Bool
	const integral = "http_requests_in_flight_seconds_total"
	before, _ := w.sample(integral)
	began, end := time.Now(), c.time
	if end == 0 {
		end = programtest.Patience
	}
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range c.clients {
		wg.Go(func() {
			<-start
			for served := false; !stop.Load() && time.Since(began) < end && (c.time > 0 || !served); {
				asked := time.Now()
				reason, err := c.ask(client, w.url)
				mu.Lock()
				switch {
				case err != nil:
					y.odd[err.Error()]++
					if len(y.odd) > 20 || y.odd[err.Error()] > 20 {
						stop.Store(true) // a dead watchdog need not be asked on
					}
				case reason == "":
					y.good++
					y.slowest = max(y.slowest, time.Since(asked))
					served = true
				default:
					y.refused[reason]++
				}
				mu.Unlock()
				if err != nil || reason != "" {
					time.Sleep(c.pause + c.pause*time.Duration(i%8)/8)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	y.took = time.Since(began)
	if after, ok := w.sample(integral); ok {
		y.mean = (after - before) / y.took.Seconds()
	}
	return y
}

// ask makes one request: "" for a good answer, the reason of a clean refusal,
// or an error for everything else.
func (c crowd) ask(client *http.Client, url string) (reason string, err error) {
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	method := c.method
	if method == "" {
		method = "GET"
	}
	req, err := http.NewRequest(method, url+c.path, body)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", errors.New(anyPort(err.Error()))
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", errors.New(anyPort(err.Error()))
	}
	if resp.StatusCode == 200 && string(all) == c.want {
		return "", nil
	}
	reason = resp.Header.Get("X-Watchdog-Reject")
	status := 503
	if reason == "inflight" {
		status = 429
	}
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	line := strings.TrimSuffix(string(all), "\n")
	clean := resp.StatusCode == status && reason != "" && strings.Contains(" "+c.reasons+" ", " "+reason+" ") &&
		after >= 1 && line != "" && !strings.Contains(line, "\n") && resp.Header.Get("X-OpenFaaS-Internal") != ""
	if !clean {
		return "", fmt.Errorf("%d X-Watchdog-Reject %q, Retry-After %q, %.100q",
			resp.StatusCode, reason, resp.Header.Get("Retry-After"), anyPort(string(all)))
	}
	return reason, nil
}

// anyPort takes what differs from connection to connection out of an error.
func anyPort(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if strings.Contains(word, "127.0.0.1:") {
			words[i] = "…"
		}
	}
	return strings.Join(words, " ")
}

// fair fails the test when anything odd happened or nothing was answered.
func (y *tally) fair(t testing.TB) {
	t.Helper()
	t.Log(y)
	if len(y.odd) > 0 || y.good == 0 {
		t.Error("not every answer is a good one or a clean refusal")
	}
}

// survived fails the test when the kernel had to kill.
func (w *caged) survived() {
	w.t.Helper()
	peak, _ := w.cage.Peak()
	kills, err := w.cage.OOMKills()
	w.t.Logf("OOM kills %d, peak %.0f MiB", kills, float64(peak)/(1<<20))
	if err != nil || kills != 0 {
		w.t.Errorf("%d OOM kills, %v", kills, err)
	}
	select {
	case <-w.exited:
		w.t.Errorf("the watchdog ended with %d", w.code())
	default:
	}
}

// died fails the test unless the kernel had to kill: controls show by it that
// the load is one.
func (w *caged) died() {
	w.t.Helper()
	if kills, err := w.cage.OOMKills(); err != nil || kills == 0 {
		w.t.Errorf("%d OOM kills, %v, where nothing guards", kills, err)
	}
}

// lines counts the lines of the log that contain all of texts.
func (w *instance) lines(texts ...string) int {
	n := 0
	for line := range strings.Lines(w.stderr.String() + "\n" + w.stdout.String()) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			n++
		}
	}
	return n
}
