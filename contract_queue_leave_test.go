package main_test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// A client that leaves while it waits gives its place up at once, not when its
// turn comes: the handler never sees its request.
func TestClientThatLeavesTheQueue(t *testing.T) {
	long := numbered(1 << 20)
	half := len(rawPost("/leaver", "leaver", long)) / 2
	for name, raw := range map[string]string{
		"GET":                  rawGet("/leaver", "leaver"),
		"5 bytes":              rawPost("/leaver", "leaver", "5byte"),
		"1 MB":                 rawPost("/leaver", "leaver", long),
		"half of 1 MB":         rawPost("/leaver", "leaver", long)[:half],
		"no byte of 5":         strings.TrimSuffix(rawPost("/leaver", "leaver", "5byte"), "5byte"),
		"chunks":               rawChunks("/leaver", "leaver", "5byte"),
		"1 MB of chunks":       rawChunks("/leaver", "leaver", long),
		"no end of chunks":     strings.TrimSuffix(rawChunks("/leaver", "leaver", "5byte"), "0\r\n\r\n"),
		"expecting 100":        rawHead("POST", "/leaver", "leaver", []string{"Expect: 100-continue", "Content-Length: 5"}),
		"chunks expecting 100": rawHead("POST", "/leaver", "leaver", []string{"Expect: 100-continue", "Transfer-Encoding: chunked"}),
		"HTTP/1.0":             "GET /leaver HTTP/1.0\r\nX-Id: leaver\r\n\r\n",
		"HTTP/1.0 kept":        "GET /leaver HTTP/1.0\r\nX-Id: leaver\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.0 1 MB":        strings.Replace(rawPost("/leaver", "leaver", long), "HTTP/1.1", "HTTP/1.0", 1),
		"pipelined":            rawGet("/leaver", "leaver") + rawGet("/leaver", "leaver"),
		"pipelined bodies":     rawPost("/leaver", "leaver", "5byte") + rawPost("/leaver", "leaver", "5byte"),
		"upgrade":              rawGet("/upgrade", "leaver", "Connection: Upgrade", "Upgrade: websocket"),
	} {
		for _, how := range []string{"closes", "resets"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				parallel(t)
				w := startMisbehaving(t, "max_inflight=1", "max_queue=5", "read_timeout=1h", "queue_timeout=1h")
				p, release := w.hold("holder")
				before := w.callInLine(1, rawGet("/status", "before"))
				leaver := w.callInLine(2, raw)
				after := w.callInLine(3, rawPost("/echo", "after", "5byte"))
				if how == "resets" {
					leaver.conn.SetLinger(0)
				}
				leaver.conn.Close()
				w.waitDepth(2) // the slot is still taken
				release()
				a, err := p.wait(t)
				wantWhole(t, a, err, "there")
				wantWhole(t, before.answer(), nil, "")
				wantWhole(t, after.answer(), nil, "5byte")
				wantStatus(t, w.do("GET", "/status", ""), 200)
				w.waitDepth(0)
				if w.saw("leaver") {
					t.Error("the handler saw a request whose client had left")
				}
				w.wantGone(1)
			})
		}
	}
}

// wantGone wants n requests in log and metrics whose clients had left.
func (w *instance) wantGone(n int) {
	w.t.Helper()
	line := regexp.MustCompile(`(?m)^.* (GET|POST) /(leaver|upgrade) - 499 .*$`)
	programtest.Eventually(w.t, fmt.Sprint(n, " requests are logged as 499"), func() bool {
		return len(line.FindAllString(w.stderr.String(), -1)) == n
	})
	total := 0.0
	for _, method := range []string{"get", "post"} {
		v, _ := w.sample(`http_requests_total{code="499",method="` + method + `"}`)
		total += v
	}
	if int(total) != n {
		w.t.Errorf("%v requests are counted as 499, want %d", total, n)
	}
}

// A second request that comes while the first waits is not in its way, and its
// client may leave too.
func TestClientThatLeavesAfterSendingAhead(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=2", "queue_timeout=1h", "read_timeout=1h")
	_, release := w.hold("holder")
	c := w.callInLine(1, rawGet("/leaver", "leaver"))
	c.write(rawGet("/leaver", "leaver") + rawGet("/leaver", "leaver"))
	c.wantSilence()
	c.conn.Close()
	w.waitDepth(0)
	release()
	wantStatus(t, w.do("GET", "/status", ""), 200)
	if w.saw("leaver") {
		t.Error("the handler saw a request whose client had left")
	}
	w.wantGone(1)
}

// 100 Continue says that the body is wanted: it comes with the slot, not
// before.
func TestContinueComesWithTheSlot(t *testing.T) {
	for name, c := range map[string]struct{ header, body string }{
		"length": {"Content-Length: 5", "hello"},
		"chunks": {"Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
			_, release := w.hold("holder")
			caller := w.callInLine(1, rawHead("POST", "/echo", "waiter", []string{"Expect: 100-continue", c.header}))
			caller.wantSilence()
			release()
			if a := caller.answer(); a.StatusCode != 100 {
				t.Fatalf("the first answer is %d %q, want 100", a.StatusCode, a.body)
			}
			caller.write(c.body)
			a := caller.answer()
			wantWhole(t, a, nil, "hello")
			caller.wantInStep(a, rawPost("/echo", "next", "next one"), "next one")
		})
	}
	t.Run("does not wait for it", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
		_, release := w.hold("holder")
		caller := w.callInLine(1, rawPost("/echo", "waiter", "hello", "Expect: 100-continue"))
		release()
		a := caller.answer()
		if a.StatusCode == 100 {
			a = caller.answer()
		}
		wantWhole(t, a, nil, "hello")
		caller.wantInStep(a, rawPost("/echo", "next", "next one"), "next one")
	})
}

// Hundreds of clients that send long bodies, wait and leave, leave nothing
// behind; nor are their bodies held in memory while they wait.
func TestStormOfClientsThatLeaveTheQueue(t *testing.T) {
	parallel(t)
	const leavers = 500
	w := startMisbehaving(t, "max_inflight=1", fmt.Sprint("max_queue=", leavers), "queue_timeout=1h", "read_timeout=1h")
	wantStatus(t, w.do("POST", "/status", numbered(1<<20)), 200)
	before := w.usage()
	p, release := w.hold("holder")
	raw := rawPost("/leaver", "leaver", numbered(1<<20))
	callers := make([]*caller, leavers)
	var sending sync.WaitGroup
	for i := range callers {
		// The system's buffers would hold all of a body: the client's are small.
		callers[i] = w.call("")
		callers[i].conn.SetWriteBuffer(16 << 10)
		sending.Go(func() { io.WriteString(callers[i].conn, raw) })
	}
	w.waitDepth(leavers)
	for _, c := range callers {
		c.conn.Close()
	}
	sending.Wait() // a Write under way keeps a connection open
	programtest.Eventually(t, "most have left before their turn", func() bool {
		n, ok := w.sample("watchdog_queue_depth")
		return ok && n < leavers
	})
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "there")
	w.waitDepth(0)
	wantStatus(t, w.do("GET", "/status", ""), 200)
	// A body that was taken from its client whole can hide that the client left.
	// All that is read ahead beside the share of each are eight of them.
	whole := 0
	for _, r := range w.records() {
		if r.ID == "leaver" && r.BodyErr == "" {
			whole++
		}
	}
	if whole > 8 {
		t.Errorf("the handler saw %d whole requests whose clients had left", whole)
	}
	w.wantNoLeak(before)
	// 64 KiB of each is what may be read ahead, and a buffer and two stacks a
	// connection; all their bodies would be 500 MiB.
	peak := w.peak() >> 20
	if peak > 256 {
		t.Errorf("the watchdog grew to %d MiB", peak)
	}
	t.Logf("the watchdog grew to %d MiB", peak)
}

// peak is the most memory that the watchdog ever had resident, in bytes.
func (w *instance) peak() int {
	w.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	kb := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if kb == nil {
		w.t.Fatalf("no VmHWM: %v", err)
	}
	n, _ := strconv.Atoi(string(kb[1]))
	return n << 10
}

// Waiting clients that send nothing and read nothing cost nobody anything, and
// a body that trickles in while it waits is whole.
func TestBodyThatComesWhileItWaits(t *testing.T) {
	for name, framed := range map[string]func(string) (string, []string){
		"length": func(body string) (string, []string) {
			raw := rawPost("/echo", "waiter", body)
			n := len(raw) - len(body)
			return raw[:n], []string{raw[n : n+10], raw[n+10 : n+70_000], raw[n+70_000:]}
		},
		"chunks": func(body string) (string, []string) {
			raw := rawChunks("/echo", "waiter", body)
			n := strings.Index(raw, "\r\n\r\n") + 4
			return raw[:n], []string{raw[n : n+10], raw[n+10 : n+70_000], raw[n+70_000 : len(raw)-3], raw[len(raw)-3:]}
		},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
			_, release := w.hold("holder")
			body := numbered(200_000)
			head, pieces := framed(body)
			c := w.callInLine(1, head)
			sent := make(chan error, 1)
			go func() {
				for _, piece := range pieces {
					if _, err := io.WriteString(c.conn, piece); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			w.waitDepth(1)
			c.wantSilence()
			release()
			a := c.answer()
			if err := <-sent; err != nil {
				t.Error(err)
			}
			wantWhole(t, a, nil, body)
			c.wantInStep(a, rawPost("/echo", "next", "next one"), "next one")
		})
	}
}
