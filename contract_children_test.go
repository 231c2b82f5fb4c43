package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// handled is what the http child says it saw of a request.
type handled struct {
	ID, Method, URI, Host string
	Header                http.Header
	Length                int64
	Encoding              []string
	Body                  int
	Sum, BodyErr          string
	Trailer               http.Header
}

// served is a watchdog in http mode with its handler.
type served struct {
	*instance
	// address is where the handler listens, recorded the file it writes.
	address, recorded string
}

// launchHTTP starts a watchdog in http mode in front of the command, whose
// LISTEN and RECORD are set.
func launchHTTP(t testing.TB, command string, env ...string) *served {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(programtest.FreePort(t))
	recorded := filepath.Join(t.TempDir(), "record")
	w := launch(t, fwatchdog(t), append([]string{
		"mode=http", "fprocess=" + command, "upstream_url=http://" + address,
		"LISTEN=" + address, "RECORD=" + recorded,
	}, env...)...)
	return &served{w, address, recorded}
}

// startHTTP is launchHTTP that waits until the handler listens and the
// watchdog is ready.
func startHTTP(t testing.TB, command string, env ...string) *served {
	t.Helper()
	w := launchHTTP(t, command, env...)
	w.waitReady()
	w.waitHandler()
	return w
}

// waitHandler waits until the handler itself takes a connection.
func (s *served) waitHandler() {
	s.t.Helper()
	programtest.Eventually(s.t, "the handler listens", func() bool {
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// startMisbehaving is startHTTP with the http child.
func startMisbehaving(t testing.TB, env ...string) *served {
	t.Helper()
	return startHTTP(t, child(t, "http"), env...)
}

// records are the requests that the handler saw so far.
func (s *served) records() []handled { return readRecords(s.t, s.recorded) }

func readRecords(t testing.TB, file string) []handled {
	t.Helper()
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []handled
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var one handled
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatalf("record %q: %v", lines.Text(), err)
		}
		all = append(all, one)
	}
	return all
}

// saw is whether the handler recorded a request with this id.
func (s *served) saw(id string) bool {
	for _, r := range s.records() {
		if r.ID == id {
			return true
		}
	}
	return false
}

// inspect is what the handler saw of one request.
func (s *served) inspect(a answer) handled {
	s.t.Helper()
	var one handled
	if err := json.Unmarshal([]byte(a.body), &one); err != nil || a.StatusCode != 200 {
		s.t.Fatalf("status %d, body %q: %v", a.StatusCode, a.body, err)
	}
	return one
}

// startFork starts a watchdog in a mode that forks, with the fork child doing
// what says.
func startFork(t testing.TB, mode, what string, env ...string) *instance {
	t.Helper()
	return start(t, append([]string{"mode=" + mode, "fprocess=" + child(t, "fork") + " " + what}, env...)...)
}

// pending is a request under way.
type pending struct {
	answer answer
	err    error
	cancel context.CancelFunc
	done   chan struct{}
}

// background sends a request without waiting for its answer.
func (w *instance) background(method, path, body string, headers ...string) *pending {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pending{cancel: cancel, done: make(chan struct{})}
	w.t.Cleanup(cancel)
	go func() {
		defer close(p.done)
		p.answer, p.err = w.tryContext(ctx, method, path, body, headers...)
	}()
	return p
}

// wait waits for the answer.
func (p *pending) wait(t testing.TB) (answer, error) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(programtest.Patience):
		t.Fatal("a request is not answered")
	}
	return p.answer, p.err
}

// wantWhole fails unless the request was answered with 200 and all of body.
func wantWhole(t testing.TB, a answer, err error, body string) {
	t.Helper()
	if err == nil && a.err != nil {
		err = a.err
	}
	if err != nil {
		t.Fatalf("the answer is cut: %v", err)
	}
	if a.StatusCode != 200 || a.body != body {
		t.Fatalf("status %d, body %.80q; want 200, %.80q", a.StatusCode, a.body, body)
	}
}

// wantCut fails when the client can take the answer for a complete one.
func wantCut(t testing.TB, a answer, err error) {
	t.Helper()
	if err == nil && a.err == nil {
		t.Fatalf("a complete-looking %d %q", a.StatusCode, a.body)
	}
}

// tryBegun sends a request again until its time did not end before the answer
// had begun, which a 504 says.
func (w *instance) tryBegun(method, path, body string) (a answer, err error) {
	w.t.Helper()
	programtest.Eventually(w.t, "an answer begins within its time", func() bool {
		a, err = w.try(method, path, body)
		return err != nil || a.StatusCode != 504
	})
	return a, err
}

// wantStatus fails unless the answer is a complete one of this status.
func wantStatus(t testing.TB, a answer, status int) {
	t.Helper()
	if a.StatusCode != status || a.err != nil {
		t.Fatalf("status %d, body %.200q, %v; want %d", a.StatusCode, a.body, a.err, status)
	}
}

// wantOwn fails unless the answer is one of the watchdog's own errors: marked
// as such, with a body of one line.
func wantOwn(t testing.TB, a answer, status int) {
	t.Helper()
	wantStatus(t, a, status)
	if got := a.Header.Get("X-OpenFaaS-Internal"); got != "of-watchdog" {
		t.Errorf("X-OpenFaaS-Internal: %q, want of-watchdog", got)
	}
	if line := strings.TrimSuffix(a.body, "\n"); line == "" || strings.Contains(line, "\n") {
		t.Errorf("body %q, want one line", a.body)
	}
}

// sample is one value of the watchdog's metrics, named as the exposition
// writes it, labels included.
func (w *instance) sample(name string) (float64, bool) {
	resp, err := client.Get("http://127.0.0.1:" + strconv.Itoa(w.metric) + "/metrics")
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			return v, err == nil
		}
	}
	return 0, false
}

// usage is what a leak would make grow.
type usage struct{ goroutines, descriptors, processes int }

func (w *instance) usage() usage {
	n, _ := w.sample("go_goroutines")
	return usage{int(n), descriptors(w.pid), len(descendants(w.pid))}
}

// slack is how much more than at the start is no leak: a scrape's own
// connection, a kept connection to the handler, a thread of the runtime.
const slack = 6

// wantNoLeak waits until the watchdog uses no more than it did before.
func (w *instance) wantNoLeak(before usage) {
	w.t.Helper()
	var now usage
	ok := func() bool {
		now = w.usage()
		return now.goroutines <= before.goroutines+slack && now.descriptors <= before.descriptors+slack && now.processes <= before.processes
	}
	for end := time.Now().Add(programtest.Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("leaked: %+v at the start, %+v now", before, now)
		}
	}
}

// touch makes the file that a waiting child looks for.
func touch(t testing.TB, file string) {
	t.Helper()
	writeFile(t, file, "")
}

func writeFile(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
