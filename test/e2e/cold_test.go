package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	coldRuns = 10
	// The bounds of a wake, of what is weir's own in it.
	scaleBound     = 20 * time.Millisecond
	firstByteBound = 50 * time.Millisecond
	// probeEvery is the bare pod's prober, which does nothing else.
	probeEvery = 2 * time.Millisecond
)

// A cold start, from the moment that somebody wants the pod.
type coldStart struct {
	asked, taken  time.Duration // the Scale write came to the API server, was answered
	running       time.Duration // the handler's process began
	address       time.Duration // the pod's address is in its status
	started, ours time.Duration // of the gateway's metrics: a pod answered its probe, the first byte
	ready         time.Duration // the Ready condition
	firstByte     time.Duration // the client's
}

// A request to a sleeping function has its answer little later than the pod
// itself could give it: the Scale write goes out at once, and the first byte
// comes as soon as the pod answers a probe. Each run has no pod and no endpoint
// before, and an answer of a new pod. The same Deployment alone, scaled through
// the API server and probed without a pause, is what it is held against.
func TestColdStart(t *testing.T) {
	needNode(t)
	r := sharedRelease(t)
	f := r.deploy(t, zero("cold", nil).drainsAtOnce())
	var through, bare []coldStart
	for range coldRuns { // in turn: the machine is the same for both
		f.asleep(t)
		through = append(through, f.wakeOnce(t))
		f.scale(t, 0)
		f.asleep(t)
		bare = append(bare, f.wakeBare(t))
		f.scale(t, 0)
	}
	show := func(name string, of []coldStart, column func(coldStart) time.Duration) time.Duration {
		var all []time.Duration
		for _, c := range of {
			all = append(all, column(c))
		}
		var each strings.Builder
		for _, d := range all {
			fmt.Fprintf(&each, "%6.0f", d.Seconds()*1e3)
		}
		t.Logf("%-34s median %s  runs [ms]%s", name, ms(quantile(all, .5)), each.String())
		return quantile(all, .5)
	}
	asked := show("t0 → write at the API server", through, func(c coldStart) time.Duration { return c.asked })
	taken := show("t0 → write answered", through, func(c coldStart) time.Duration { return c.taken })
	running := show("t0 → handler's process began", through, func(c coldStart) time.Duration { return c.running })
	address := show("t0 → address known", through, func(c coldStart) time.Duration { return c.address })
	started := show("t0 → a probe answered (weir)", through, func(c coldStart) time.Duration { return c.started })
	ready := show("t0 → Ready condition", through, func(c coldStart) time.Duration { return c.ready })
	whole := show("t0 → first byte (client)", through, func(c coldStart) time.Duration { return c.firstByte })
	last := show("probe answered → first byte (weir)", through, func(c coldStart) time.Duration { return c.ours - c.started })
	show("bare: t0 → handler's process began", bare, func(c coldStart) time.Duration { return c.running })
	bareAddress := show("bare: t0 → address known", bare, func(c coldStart) time.Duration { return c.address })
	alone := show("bare: t0 → first byte", bare, func(c coldStart) time.Duration { return c.firstByte })
	if taken > scaleBound {
		t.Errorf("t0 → Scale write answered: median %v, want at most %v", taken, scaleBound)
	}
	if last > firstByteBound {
		t.Errorf("first probe answered → first byte: median %v, want at most %v", last, firstByteBound)
	}
	runs := fmt.Sprintf("median of %d", coldRuns)
	measured.add("cold start, "+runs+": t0 → Scale write at the API server, answered (audit log)", ms(asked)+", "+ms(taken), "≤ "+ms(scaleBound))
	measured.add("t0 → process began, address known, probe answered, Ready condition", ms(running)+", "+ms(address)+", "+ms(started)+", "+ms(ready), "")
	measured.add("probe answered → first byte (gateway's metrics)", ms(last), "≤ "+ms(firstByteBound))
	measured.add("t0 → first byte, through weir; bare pod: address known, first byte", ms(whole)+"; "+ms(bareAddress)+", "+ms(alone), "")
}

// drainsAtOnce has pods end without the pause that Services need to notice.
func (f fn) drainsAtOnce() fn {
	f.Env = map[string]string{"healthcheck_interval": "0s"}
	return f
}

func (f *function) wakeOnce(t *testing.T) (c coldStart) {
	t.Helper()
	if n := f.endpoints(t); n != 0 {
		t.Fatalf("%d endpoints before", n)
	}
	w := f.r.weirs(t, 2)[0]
	before := w.wakes(t)
	seen := f.watch(t)
	mark, begin := f.r.c.mark(t), time.Now()
	header := f.firstByte(t, w.url+f.path(), begin, &c.firstByte)
	after := w.wakes(t)
	c.started, c.ours = after.started-before.started, after.firstByte-before.firstByte
	if after.n != before.n+1 {
		t.Fatalf("%d wakes by %s, want 1", after.n-before.n, w.name)
	}
	c.running = processBegan(t, header).Sub(begin)
	if c.running < 0 {
		t.Fatalf("the answer came from %s, which ran before", header.Get("X-Pod"))
	}
	for _, w := range f.writes(t, mark, 0) {
		if w.Old == 0 && w.New > 0 && w.Done {
			c.asked, c.taken = w.RequestReceivedTimestamp.Sub(begin), w.StageTimestamp.Sub(begin)
		}
	}
	if c.taken == 0 {
		t.Fatal("no Scale write from zero in the audit log")
	}
	c.address, c.ready = seen.address(t).at.Sub(begin), seen.ready(t).Sub(begin)
	return c
}

// wakeBare scales the Deployment itself and asks its pod until that answers.
func (f *function) wakeBare(t *testing.T) (c coldStart) {
	t.Helper()
	seen := f.watch(t)
	begin := time.Now()
	if err := f.r.c.put("/apis/apps/v1/namespaces/"+f.r.namespace+"/deployments/"+f.name+"/scale", map[string]any{
		"apiVersion": "autoscaling/v1", "kind": "Scale",
		"metadata": map[string]string{"name": f.name, "namespace": f.r.namespace}, "spec": map[string]int{"replicas": 1},
	}); err != nil {
		t.Fatal(err)
	}
	c.taken = time.Since(begin)
	where := seen.address(t)
	c.address = where.at.Sub(begin)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 500 * time.Millisecond}
	for end := time.Now().Add(patience); ; time.Sleep(probeEvery) {
		if time.Now().After(end) {
			t.Fatalf("pod at %s does not answer", where.ip)
		}
		resp, err := client.Get("http://" + where.ip + ":8080/")
		if err != nil {
			continue
		}
		at := time.Since(begin)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			c.firstByte, c.running = at, processBegan(t, resp.Header).Sub(begin)
			return c
		}
	}
}

// firstByte sends one request, and takes the time from begin to the first byte
// of its answer.
func (f *function) firstByte(t *testing.T, url string, begin time.Time, took *time.Duration) http.Header {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotFirstResponseByte: func() { *took = time.Since(begin) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := plainClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %.200q: %v", url, resp.Status, body, err)
	}
	return resp.Header
}

// processBegan is when the process began that gave an answer.
func processBegan(t *testing.T, answer http.Header) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, answer.Get("X-Started"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// wakes are the sums of a weir's histograms of wakes.
type wakes struct {
	n                  int
	started, firstByte time.Duration
}

func (w weir) wakes(t *testing.T) wakes {
	t.Helper()
	m := w.scrape(t)
	seconds := func(name string) time.Duration {
		return time.Duration(m["weir_wake_"+name+"_seconds_sum"] * float64(time.Second))
	}
	return wakes{int(m["weir_wake_first_byte_seconds_count"]), seconds("started"), seconds("first_byte")}
}

// scrape is all that a weir's /metrics says, by name and labels as written.
func (w weir) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	resp, err := plainClient.Get(w.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		end := strings.LastIndexByte(line, ' ')
		if end < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[end+1:], 64); err == nil {
			values[line[:end]] = v
		}
	}
	return values
}

// A podWatch has seen the first pod of a function come.
type podWatch struct {
	addressed chan place
	readied   chan time.Time
}

type place struct {
	at time.Time
	ip string
}

// watch begins to watch the function's pods, of which there are none.
func (f *function) watch(t *testing.T) podWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	path := "/api/v1/namespaces/" + f.r.namespace + "/pods?labelSelector=app%3D" + f.name
	var now object
	if err := f.r.c.get(path, &now); err != nil {
		t.Fatal(err)
	}
	url := f.r.c.server + path + "&watch=1&resourceVersion=" + now.Metadata.ResourceVersion
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.r.c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	w := podWatch{make(chan place, 1), make(chan time.Time, 1)}
	go func() {
		defer cancel()
		defer resp.Body.Close()
		var addressed, readied bool
		for events := json.NewDecoder(resp.Body); ; {
			var e struct{ Object pod }
			if err := events.Decode(&e); err != nil {
				if ctx.Err() == nil {
					t.Errorf("watch pods of %s: %v", f.name, err)
				}
				return
			}
			if !addressed && e.Object.Status.PodIP != "" {
				addressed = true
				w.addressed <- place{time.Now(), e.Object.Status.PodIP}
			}
			if !readied && e.Object.ready() {
				readied = true
				w.readied <- time.Now()
				return
			}
		}
	}()
	return w
}

func (w podWatch) address(t *testing.T) place {
	t.Helper()
	select {
	case p := <-w.addressed:
		return p
	case <-time.After(patience):
		t.Fatal("no pod got an address")
		return place{}
	}
}

func (w podWatch) ready(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-w.readied:
		return at
	case <-time.After(patience):
		t.Fatal("no pod became Ready")
		return time.Time{}
	}
}

// put sends an object to a path of the API server.
func (c *cluster) put(path string, object any) error {
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPut, c.server+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("PUT %s: %s: %.200s", path, resp.Status, body)
	}
	return nil
}
