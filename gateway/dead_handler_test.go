package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// orphaned stops a fwatchdog and kills its handler, so that requests come to
// it before it can know. Its wake has it go on; it stays until its finish was
// called, at most for the two seconds that a watchdog has for last answers.
type orphaned struct {
	*process
	finish func()
}

func orphan(t *testing.T, p *process) *orphaned {
	t.Helper()
	// A client that is slow with a body, of which the handler gets nothing
	// before it is whole (buffer_http), and that is asked for it once the
	// request is admitted.
	slow, err := net.Dial("tcp", p.pod.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slow.Close() })
	_ = slow.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(slow, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if line, err := bufio.NewReader(slow).ReadString('\n'); !strings.Contains(line, " 100 ") {
		t.Fatalf("a slow client was told %q, %v", line, err)
	}
	o := &orphaned{p, func() { _, _ = io.WriteString(slow, "hello") }}
	o.Signal(syscall.SIGSTOP)
	programtest.Eventually(t, "the watchdog is stopped", func() bool { return programtest.Stopped(p.Pid()) })
	handlers := programtest.Descendants(p.Pid())
	if len(handlers) == 0 {
		t.Fatal("the watchdog has no handler")
	}
	for _, handler := range handlers {
		handler.Kill()
		programtest.Eventually(t, "the handler is dead", handler.Gone)
	}
	return o
}

func (o *orphaned) wake() { o.Signal(syscall.SIGCONT) }

// posts sends n of them at once; each answer is told to each.
func (w *world) posts(n int, each func(answer)) *sync.WaitGroup {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			body := fmt.Sprint("call ", i)
			a, err := w.do("POST", "/f/echo", strings.NewReader(body))
			if err != nil {
				w.t.Errorf("call %d: %v", i, err)
				return
			}
			if a.code == http.StatusOK && a.body != body {
				w.t.Errorf("call %d was answered %q", i, a.body)
			}
			each(a)
		})
	}
	return &all
}

// busy waits until a pod has so many of the gateway's calls.
func (w *world) busy(pod string, n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s has %d calls", pod, n), func() bool {
		l := w.lane("f")
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, p := range l.places.all {
			if p.pod.About().Name == pod {
				return p.running.n >= n
			}
		}
		return false
	})
}

// Requests that came to a fwatchdog between its handler's death and its own
// end were answered 502, though nobody had begun them and another pod lived.
func TestADeadHandlersRequestsGoElsewhere(t *testing.T) {
	w := newWorld(t, nil)
	one, two := watchdogPod(t, "one", "buffer_http=true"), watchdogPod(t, "two")
	w.started(w.function("f", 2, one.pod, two.pod), 2)
	dead := orphan(t, one)
	const calls = 40
	all := w.posts(calls, func(a answer) {
		if a.code != http.StatusOK {
			t.Errorf("%+v", a)
		}
	})
	w.busy("one", 1)
	dead.wake()
	all.Wait()
	dead.finish()
	w.idle("f")
	l := w.lane("f")
	l.done.mu.Lock()
	refused := l.done.counts[counter{familyPods, "handler"}]
	l.done.mu.Unlock()
	if refused == 0 {
		t.Error("no pod refused for its dead handler")
	}
	if d := l.demand(time.Now()); d.Pods["two"].Calls != calls {
		t.Errorf("the pod that lives had %d calls, want all %d", d.Pods["two"].Calls, calls)
	}
}

// With no other pod they are held until there is one.
func TestADeadHandlersRequestsAreHeld(t *testing.T) {
	w := newWorld(t, nil)
	one := watchdogPod(t, "one", "buffer_http=true")
	w.started(w.function("f", 1, one.pod), 1)
	dead := orphan(t, one)
	const calls = 10
	all := w.posts(calls, func(a answer) {
		if a.code != http.StatusOK {
			t.Errorf("%+v", a)
		}
	})
	w.busy("one", calls)
	dead.wake()
	l := w.lane("f")
	w.until("all are held", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.line.n == calls
	})
	dead.finish()
	<-one.Ended
	w.function("f", 1, watchdogPod(t, "two").pod)
	all.Wait()
	w.idle("f")
}

// Where none comes the client is told what keeps it, and when to come again.
func TestADeadHandlersRequestsAreNotHeldForEver(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldTime = 300 * time.Millisecond })
	one := watchdogPod(t, "one", "buffer_http=true")
	w.started(w.function("f", 1, one.pod), 1)
	dead := orphan(t, one)
	all := w.posts(5, func(a answer) {
		if a.code != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "their log says why") {
			t.Errorf("%+v", a)
		}
	})
	w.busy("one", 5)
	dead.wake()
	all.Wait()
	dead.finish()
	w.idle("f")
}
