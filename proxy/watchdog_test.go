package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/test/programtest"
)

func TestMain(m *testing.M) { os.Exit(programtest.Run(m)) }

// pod is a real fwatchdog before a handler in the test.
type pod struct {
	*Proxy
	watchdog *programtest.Watchdog
	arrived  atomic.Int32 // requests that the handler got
	seen     sync.Map     // those of them with an X-Id, by that
	// release lets the handler answer; closed at the end of the test.
	release chan struct{}
}

// newPod starts a fwatchdog with the settings. Its handler reads the body,
// waits for release unless the path is /quick, and answers the body.
func newPod(t testing.TB, settings ...string) *pod {
	t.Helper()
	p := &pod{release: make(chan struct{})}
	handler := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.arrived.Add(1)
		if id := r.Header.Get("X-Id"); id != "" {
			p.seen.Store(id, true)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Path != "/quick" {
			select {
			case <-p.release:
			case <-r.Context().Done():
			}
		}
		// Only a watchdog may say this.
		w.Header().Set(contract.HeaderReject, "forged")
		w.Write(body)
	}))
	handler.Config.ErrorLog = discard
	handler.Start()
	t.Cleanup(handler.Close)
	t.Cleanup(func() {
		select {
		case <-p.release:
		default:
			close(p.release)
		}
	})
	p.watchdog = programtest.StartWatchdog(t, append([]string{"mode=http", "upstream_url=" + handler.URL, "healthcheck_interval=300ms"}, settings...)...)
	p.Proxy = mustNew(t, p.watchdog.URL)
	p.IdleLife, p.MaxIdle, p.DialTimeout = time.Minute, 64, 2*time.Second
	t.Cleanup(func() {
		p.watchdog.Kill()
		p.Close()
	})
	p.watchdog.Ready()
	return p
}

// inTurn tries the pods one after another as long as they refuse, or are not
// there.
func inTurn(c *Call, pods ...*pod) (err error) {
	c.Watchdog, c.Judge = true, judge
	for _, p := range pods {
		err = c.Try(p.Proxy)
		var try *TryError
		if !errors.As(err, &try) || try.Stage != Refused && try.Stage != NotTaken {
			return err
		}
	}
	return err
}

// busy sends a request that stays at the handler until it is released.
func (p *pod) busy(t testing.TB, g *gate) {
	t.Helper()
	before := p.arrived.Load()
	g.send(t, "POST /busy HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbusy")
	programtest.Eventually(t, "the handler to be busy", func() bool { return p.arrived.Load() > before })
}

// post sends a body and checks that it comes back.
func post(t testing.TB, g *gate, n int, chunked bool) {
	t.Helper()
	body := bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n]
	r, _ := http.NewRequest("POST", g.URL+"/quick", bytes.NewReader(body))
	if chunked {
		r.ContentLength, r.Body = -1, io.NopCloser(r.Body)
	}
	res, err := g.Client().Do(r)
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, chunked=%v: %s, %d bytes, %v", n, chunked, res.Status, len(got), err)
	}
	if res.Header.Get(contract.HeaderReject) != "" {
		t.Errorf("%d bytes: a handler's %s came through", n, contract.HeaderReject)
	}
}

// A full fwatchdog refuses, with and without a queue; another takes it, with
// all of its body.
func TestWatchdogRefuses(t *testing.T) {
	for _, queue := range []string{"0", "1"} {
		full, free := newPod(t, "max_inflight=1", "max_queue="+queue), newPod(t, "max_inflight=8")
		one := newGate(t, func(c *Call) error { return inTurn(c, full) })
		full.busy(t, one)
		if queue == "1" { // and one waits
			one.send(t, "POST /busy HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbusy")
			programtest.Eventually(t, "one to wait", func() bool {
				res, err := http.Get("http://" + full.address + contract.ReadyPath)
				if err != nil {
					return false
				}
				defer res.Body.Close()
				return res.StatusCode == 429
			})
		}
		both := newGate(t, func(c *Call) error { return inTurn(c, full, free) })
		for _, n := range []int{0, 5, DefaultKeep, DefaultKeep + 1, 4 << 20} {
			for _, chunked := range []bool{false, true} {
				post(t, both, n, chunked)
				if err := both.end(t); err != nil {
					t.Errorf("queue %s, %d bytes: %v", queue, n, err)
				}
			}
		}
		// Alone, the refusal itself is there to be passed on.
		g := newGate(t, func(c *Call) error {
			try := wantTry(t, "full", inTurn(c, full), Refused, nil)
			reason := map[string]string{"0": contract.RejectInflight, "1": contract.RejectQueue}[queue]
			if h := try.Answer.Header(); h.Get(contract.HeaderReject) != reason || h.Get("Retry-After") == "" || len(try.Answer.Body) == 0 {
				t.Errorf("refused with %v %q", h, try.Answer.Body)
			}
			c.Pass(try.Answer)
			return nil
		})
		res, err := g.Client().Get(g.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != map[string]int{"0": 429, "1": 503}[queue] {
			t.Errorf("passed on as %s", res.Status)
		}
		close(full.release)
	}
}

// A fwatchdog with a queue asks for a long body once its turn has come, and not
// before; whoever waits for that is not cut short.
func TestWatchdogAsksAfterAdmission(t *testing.T) {
	p := newPod(t, "max_inflight=1", "max_queue=4")
	var body atomic.Int64
	g := newGate(t, func(c *Call) error {
		if c.r.URL.Path == "/quick" {
			c.Kept = func(n int) error { body.Add(int64(n)); return nil }
		}
		return inTurn(c, p)
	})
	p.busy(t, g)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		post(t, g, 4<<20, false)
	}()
	time.Sleep(continueWait + 500*time.Millisecond) // longer than others are waited for
	if body.Load() != 0 || p.arrived.Load() != 1 {
		t.Errorf("%d bytes were read of a body whose turn has not come, %d arrived", body.Load(), p.arrived.Load())
	}
	close(p.release)
	<-answered
	for range 2 {
		if err := g.end(t); err != nil {
			t.Error(err)
		}
	}
}

// Requests on kept connections meet a fwatchdog that drains and ends: each is
// answered by it or by the other, none is lost.
func TestWatchdogDrains(t *testing.T) {
	first, second := newPod(t, "max_inflight=64"), newPod(t, "max_inflight=64")
	close(first.release)
	g := newGate(t, func(c *Call) error { return inTurn(c, first, second) })
	var group sync.WaitGroup
	var stop atomic.Bool
	for i := range 8 {
		group.Go(func() {
			for n := 0; !stop.Load(); n++ {
				post(t, g, []int{5, 0, 3 << 10, DefaultKeep, DefaultKeep + 9}[(n+i)%5], n%2 == 0)
				if err := <-g.ends; err != nil {
					t.Error(err)
				}
			}
		})
	}
	programtest.Eventually(t, "requests at the first", func() bool { return first.arrived.Load() > 100 })
	first.watchdog.Signal(syscall.SIGTERM)
	<-first.watchdog.Ended
	before := second.arrived.Load()
	programtest.Eventually(t, "requests at the second", func() bool { return second.arrived.Load() > before+100 })
	stop.Store(true)
	group.Wait()
}

// kill -9 of a pod under load: what was not taken goes elsewhere, what was sent
// is told as that. What is told as not taken has never come to the handler.
func TestWatchdogKilled(t *testing.T) {
	for round := range 3 {
		first, second := newPod(t), newPod(t)
		var sent, untaken, ids atomic.Int32
		var refused sync.Map // ids of what was not taken
		g := newGate(t, func(c *Call) error {
			c.Watchdog, c.Judge = true, judge
			id := fmt.Sprint(ids.Add(1))
			c.Header = http.Header{"X-Id": {id}}
			err := c.Try(first.Proxy)
			var try *TryError
			switch {
			case err == nil:
				return nil
			case !errors.As(err, &try):
				return err
			case try.Stage == Sent && errors.Is(err, invoke.ErrBadAnswer):
				sent.Add(1)
			case try.Stage == Begun:
				return err
			case try.Stage == NotTaken:
				untaken.Add(1)
				refused.Store(id, true)
			default:
				t.Errorf("round %d: %v", round, err)
			}
			return c.Try(second.Proxy)
		})
		var group sync.WaitGroup
		var stop atomic.Bool
		var lost atomic.Int32
		for range 8 {
			group.Go(func() {
				for !stop.Load() {
					res, err := g.Client().Post(g.URL+"/quick", "", strings.NewReader("hello"))
					if err != nil {
						lost.Add(1) // its answer had begun
						continue
					}
					body, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err == nil && (res.StatusCode != 200 || string(body) != "hello") {
						t.Errorf("round %d: %s %q", round, res.Status, body)
					}
				}
			})
		}
		programtest.Eventually(t, "requests at the first", func() bool { return first.arrived.Load() > 200 })
		first.watchdog.Kill()
		before := second.arrived.Load()
		programtest.Eventually(t, "requests at the second", func() bool { return second.arrived.Load() > before+200 })
		stop.Store(true)
		group.Wait()
		// Eight were under way, and each client may have met a second time what
		// the kernel had not yet taken down: a killed process owns its sockets
		// until then.
		if n := sent.Load() + lost.Load(); n > 16 {
			t.Errorf("round %d: %d requests were cut, which is more than were under way", round, n)
		}
		refused.Range(func(id, _ any) bool {
			if _, came := first.seen.Load(id); came {
				t.Errorf("round %d: request %v was told as not taken, and has come", round, id)
			}
			return true
		})
		t.Logf("round %d: %d sent without an answer, %d cut in it, %d not taken", round, sent.Load(), lost.Load(), untaken.Load())
	}
}
