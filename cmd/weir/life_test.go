package main_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// calls are sent at once; done returns when all were answered, with how many
// of them by 200.
func (p *program) calls(n int, path string) (done func() int) {
	var all sync.WaitGroup
	var good atomic.Int64
	for range n {
		all.Go(func() {
			a, err := p.do(http.MethodPost, path, strings.NewReader("hello"))
			switch {
			case err != nil:
				p.t.Logf("%s: %v", path, err)
			case a.StatusCode != http.StatusOK:
				p.t.Logf("%s: %s %q", path, a.Status, a.text)
			default:
				good.Add(1)
			}
		})
	}
	return func() int {
		all.Wait()
		return int(good.Load())
	}
}

// inFlight is how many calls of a function are under way, held ones included.
func (p *program) inFlight(name string) float64 {
	return p.metric(fmt.Sprintf(`gateway_function_invocation_inflight{function_name="%s.default"}`, name))
}

// TestDrain: what is under way when weir is told to stop is answered, whether
// it runs, waits for room, or waits for its function to wake.
func TestDrain(t *testing.T) {
	t.Parallel()
	stack := "functions:\n" + function(t, "one", []string{"max_inflight: 1"}, []string{`weir/max: "1"`}) +
		function(t, "sleeper", nil, asleep)
	p := local(t, stack)
	p.get("/function/one").check(t, http.StatusOK)
	busy := p.calls(5, "/function/one?ms=300")
	p.Until("five calls are under way", func() bool { return p.inFlight("one") == 5 })
	woken := p.calls(5, "/function/sleeper?ms=300")
	p.Until("five calls wake a function", func() bool { return p.inFlight("sleeper") > 0 })
	p.Until("four wait for room", func() bool { return p.metric(`weir_held_requests{function_name="one.default"}`) > 0 })
	p.Signal(syscall.SIGTERM)
	if n := busy(); n != 5 {
		t.Errorf("%d of 5 calls that ran or waited for room were answered", n)
	}
	// Those that connected after the listener closed were never taken.
	if n := woken(); n < 1 {
		t.Error("no call that waited for a wake was answered")
	}
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.Gone()
}

// TestSecondSignal: whoever is in a hurry need not wait.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", []string{"exec_timeout: 10m", "write_timeout: 10m"}, asleep), "WEIR_SHUTDOWN_TIMEOUT=10m")
	p.get("/function/echo").check(t, http.StatusOK)
	done := p.calls(1, "/function/echo?ms=600000")
	p.Until("a long call runs", func() bool { return p.inFlight("echo") == 1 })
	p.Signal(syscall.SIGTERM)
	p.Until("it drains", func() bool { return strings.Contains(p.Log.String(), "told to stop") })
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if done() != 0 {
		t.Error("the long call was answered")
	}
	p.Gone()
}

// TestShutdownTimeout: a conversation that does not end is cut, and said so.
func TestShutdownTimeout(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, asleep), "WEIR_SHUTDOWN_TIMEOUT=1s")
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	fmt.Fprintf(c, "GET /function/echo/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	p.Until("the conversation runs", func() bool { return p.inFlight("echo") == 1 })
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(p.Log.String(), "were cut: they took longer than WEIR_SHUTDOWN_TIMEOUT") {
		t.Error("nothing in the log says that a conversation was cut")
	}
	p.Gone()
}

// TestKilledWeir: nothing outlives it, whatever it ran.
func TestKilledWeir(t *testing.T) {
	t.Parallel()
	stack := "functions:\n" + function(t, "echo", nil, asleep) +
		"  fork:\n    fprocess: sh -c 'sleep 1000 & setsid sleep 1000 & wait'\n    environment:\n      mode: streaming\n      exec_timeout: 10m\n" +
		"    annotations:\n      weir/zero: \"true\"\n"
	p := local(t, stack)
	p.get("/function/echo").check(t, http.StatusOK)
	done := p.calls(1, "/function/fork")
	p.Until("its sleeps run", func() bool { return len(p.Processes("sleep")) >= 2 })
	p.Signal(syscall.SIGKILL)
	p.Wait()
	done()
	p.Gone()
}

// TestKilledReplica: a replica that is killed takes no call with it that may
// be repeated.
func TestKilledReplica(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, []string{`weir/min: "3"`, `weir/max: "3"`}))
	p.Until("three replicas serve", func() bool {
		return strings.Contains(p.get("/status-function/echo").text, `"NumberReady":3`)
	})
	const kills = 3
	stop := make(chan struct{})
	var all sync.WaitGroup
	var good, bad atomic.Int64
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := p.do(http.MethodGet, "/function/echo?ms=2", nil)
				if err == nil && a.StatusCode == http.StatusOK {
					good.Add(1)
					continue
				}
				bad.Add(1)
				t.Errorf("%v %q", err, a.text)
			}
		})
	}
	for range kills {
		before := good.Load()
		p.Until("fifty more answers came", func() bool { return good.Load()+bad.Load() >= before+50 })
		for pid, line := range p.Processes("fwatchdog") {
			if strings.HasPrefix(line, programtest.BuildFwatchdog(t)) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
	}
	before := good.Load()
	p.Until("fifty more answers came", func() bool { return good.Load()+bad.Load() >= before+50 })
	close(stop)
	all.Wait()
	if n := strings.Count(p.Log.String(), "event=ReplicaEnded"); n != kills {
		t.Errorf("%d replicas ended, and %d were killed", n, kills)
	}
	t.Logf("%d calls were answered", good.Load())
}
