package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// descriptors counts those that this process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("descriptors cannot be counted here: %v", err)
	}
	return len(all)
}

// Two thousand pods, each at an address of its own: all are found, and then
// neither a connection nor a goroutine is left for any.
func TestManyPodsLeaveNothing(t *testing.T) {
	const pods, functions = 2000, 100
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*pods {
		t.Skipf("%d descriptors are allowed, %d are needed", limit.Cur, 2*pods)
	}
	var starting atomic.Bool
	starting.Store(true)
	serve := func(c net.Conn) {
		defer func() { _ = c.Close() }()
		for in := bufio.NewReader(c); ; {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			status, body := "200 OK", "ready"
			if starting.Load() {
				status, body = "503 Service Unavailable", "starting"
			}
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), watchdogHead, body)
		}
	}
	all := make([][]function.Pod, functions)
	for i := range pods {
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+i/200/200, 1+i/200%200, 1+i%200))
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Skip("only one loopback address here")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go serve(c)
			}
		}()
		all[i%functions] = append(all[i%functions], function.Pod{Name: fmt.Sprint(i), UID: fmt.Sprint(i), Addr: l.Addr().String()})
	}
	settled := func(what string, goroutines, fds int) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for runtime.NumGoroutine() > goroutines || descriptors(t) > fds {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d goroutines and %d descriptors, expected at most %d and %d", what, runtime.NumGoroutine(), descriptors(t), goroutines, fds)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	_ = descriptors(t)
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)

	pr := &Prober{}
	f := New(Config{Probe: pr})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	for i, pods := range all {
		f.Put(functionOf(refOf(i), pods...))
	}
	time.Sleep(time.Second)
	if n := descriptors(t) - fds; n > 2*2*DefaultLimit+50 { // both ends are ours
		t.Errorf("%d descriptors while all start, expected at most two for each of %d probes and as many kept", n, DefaultLimit)
	}
	starting.Store(false)
	for i := range functions {
		e := f.Get(refOf(i))
		until(t, e, "all started", func() bool { return e.Started() == pods/functions })
	}
	// Run, and looks under way.
	settled("all serve", goroutines+1+calmRate/2, fds+calmRate/2)
	for i := range functions {
		f.Delete(refOf(i))
	}
	settled("all are gone", goroutines+1, fds)
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if pr.kept != 0 {
		t.Errorf("%d connections are said to be kept", pr.kept)
	}
	settled("after Run", goroutines, fds)
}

// Run gives back connections that it keeps, and breaks off probes that hang.
func TestRunEndsWithConnectionsKept(t *testing.T) {
	starting := listen(t, func(c net.Conn) {
		for in := bufio.NewReader(c); ; {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 503 x\r\nContent-Length: 8\r\n"+watchdogHead+"\r\nstarting")
		}
	})
	hangs := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	fds := descriptors(t)
	pr := &Prober{Timeout: time.Hour}
	f := New(Config{Probe: pr})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	f.Put(functionOf(refOf(1), function.Pod{UID: "1", Addr: starting}, function.Pod{UID: "2", Addr: hangs}))
	e := f.Get(refOf(1))
	until(t, e, "known", func() bool { return e.Pods()[0].Said().Nature == Watchdog })
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(patience); descriptors(t) > fds; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before", descriptors(t), fds)
		}
	}
}
