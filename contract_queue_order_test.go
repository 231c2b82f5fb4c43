package main_test

import (
	"fmt"
	"strings"
	"testing"
)

// Who came first is served first, whatever the method and however long the
// body.
func TestQueueIsFirstComeFirstServed(t *testing.T) {
	parallel(t)
	const waiters = 50
	w := startMisbehaving(t, "max_inflight=1", fmt.Sprint("max_queue=", waiters))
	p, release := w.hold("holder")
	want := []string{"holder"}
	var callers []*caller
	long := numbered(1 << 20)
	for i := range waiters {
		id := fmt.Sprint("waiter", i)
		var raw string
		switch i % 5 {
		case 0:
			raw = rawGet("/status", id)
		case 1:
			raw = rawPost("/status", id, "5byte")
		case 2:
			raw = rawPost("/status", id, long)
		case 3:
			raw = rawChunks("/status", id, long[:100_000])
		case 4:
			raw = rawPost("/status", id, "", "Expect: 100-continue")
		}
		callers = append(callers, w.callInLine(i+1, raw))
		want = append(want, id)
	}
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "there")
	for _, c := range callers {
		wantStatus(t, c.answer(), 200)
	}
	var got []string
	for _, r := range w.records() {
		got = append(got, r.ID)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("served in the order\n%v, want\n%v", got, want)
	}
	w.waitDepth(0)
}

// With the queue full a request is refused at once: while it is answered
// nothing ends, and of its body nothing is waited for.
func TestFullQueueRefusesAtOnce(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=2")
	p, release := w.hold("holder")
	first := w.callInLine(1, rawGet("/status", "first"))
	second := w.callInLine(2, rawPost("/echo", "second", "5byte"))
	long := numbered(1 << 20)
	refusals := map[string]string{
		"GET":              rawGet("/status", "refused"),
		"5 bytes":          rawPost("/status", "refused", "5byte"),
		"100 KB":           rawPost("/status", "refused", long[:100_000]),
		"1 MB":             rawPost("/status", "refused", long),
		"chunks":           rawChunks("/status", "refused", long),
		"no byte of 5":     strings.TrimSuffix(rawPost("/status", "refused", "5byte"), "5byte"),
		"no byte of 1 MB":  strings.TrimSuffix(rawPost("/status", "refused", long), long),
		"no end of chunks": strings.TrimSuffix(rawChunks("/status", "refused", "5byte"), "0\r\n\r\n"),
		"expecting 100":    strings.TrimSuffix(rawPost("/status", "refused", "5byte", "Expect: 100-continue"), "5byte"),
		"upgrade":          rawGet("/upgrade", "refused", "Connection: Upgrade", "Upgrade: websocket"),
		"HTTP/1.0":         "GET /status HTTP/1.0\r\nX-Id: refused\r\n\r\n",
	}
	for name, raw := range refusals {
		t.Run(name, func(t *testing.T) {
			a := w.in(t).call(raw).answer()
			wantRefused(t, a)
			if !strings.Contains(a.body, "queue") && !strings.Contains(a.body, "wait") {
				t.Errorf("body %q does not say that the queue is full", a.body)
			}
		})
	}
	if got, ok := w.sample(`watchdog_rejected_total{reason="queue"}`); !ok || int(got) != len(refusals) {
		t.Errorf("watchdog_rejected_total is %v, want %d", got, len(refusals))
	}
	if got, ok := w.sample("watchdog_queue_depth"); !ok || got != 2 {
		t.Errorf("watchdog_queue_depth is %v, want 2", got)
	}
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "there")
	wantWhole(t, first.answer(), nil, "")
	wantWhole(t, second.answer(), nil, "5byte")
	if w.saw("refused") {
		t.Error("the handler saw a request that was refused")
	}
	wantStatus(t, w.do("GET", "/status", ""), 200)
}

// A refusal, at once or after waiting, and a wait leave the connection in
// step: what comes next on it is read as what it is, and no body as a request.
func TestConnectionsStayInStepWithAQueue(t *testing.T) {
	smuggled := rawGet("/smuggled", "smuggled")
	next := rawPost("/echo", "next", "next one")
	long := smuggled + numbered(200_000) + smuggled
	shapes := map[string]string{
		"GET":     rawGet("/status", "waiter"),
		"short":   rawPost("/status", "waiter", smuggled),
		"long":    rawPost("/status", "waiter", long),
		"chunks":  rawChunks("/status", "waiter", smuggled),
		"long ch": rawChunks("/status", "waiter", long),
	}
	check := func(t *testing.T, w *served) {
		t.Helper()
		for range 5 {
			wantStatus(t, w.do("GET", "/status", ""), 200)
		}
		for _, r := range w.records() {
			if r.ID == "smuggled" || strings.HasPrefix(r.URI, "/smuggled") {
				t.Fatalf("the handler saw a body as a request: %+v", r)
			}
		}
	}
	for name, raw := range shapes {
		t.Run("served/"+name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
			_, release := w.hold("holder")
			c := w.callInLine(1, raw)
			release()
			a := c.answer()
			wantWhole(t, a, nil, "")
			if a.Close {
				t.Error("the connection is not kept")
			}
			c.wantInStep(a, next, "next one")
			check(t, w)
		})
		t.Run("pipelined/"+name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
			_, release := w.hold("holder")
			c := w.callInLine(1, raw+next+next)
			release()
			wantWhole(t, c.answer(), nil, "")
			wantWhole(t, c.answer(), nil, "next one")
			wantWhole(t, c.answer(), nil, "next one")
			check(t, w)
		})
		t.Run("refused/"+name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
			_, release := w.hold("holder")
			w.callInLine(1, rawGet("/status", "first"))
			c := w.call(raw)
			a := c.answer()
			wantRefused(t, a)
			release()
			w.waitSample("http_requests_in_flight", 0)
			c.wantInStep(a, next, "next one")
			check(t, w)
		})
		t.Run("waited too long/"+name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=1", "queue_timeout=100ms")
			_, release := w.hold("holder")
			c := w.call(raw)
			a := c.answer()
			wantRefused(t, a)
			release()
			w.waitSample("http_requests_in_flight", 0)
			c.wantInStep(a, next, "next one")
			if w.saw("waiter") {
				t.Error("the handler saw a request that was refused")
			}
			check(t, w)
		})
	}
}
