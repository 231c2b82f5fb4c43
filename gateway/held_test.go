package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

// beClients sends so many requests to one URL at once, each on a connection of
// its own, and prints how many were answered with 200.
func beClients(args []string) int {
	u, err := url.Parse(args[0])
	n, err2 := strconv.Atoi(args[1])
	if err != nil || err2 != nil {
		return 2
	}
	request := "POST " + u.Path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
	var good atomic.Int64
	var all sync.WaitGroup
	dialing := make(chan struct{}, 64)
	for range n {
		all.Go(func() {
			dialing <- struct{}{}
			conn, err := net.Dial("tcp", u.Host)
			if err == nil {
				_, err = io.WriteString(conn, request)
			}
			<-dialing
			if err != nil {
				fmt.Println(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * patience))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				fmt.Println(err)
				return
			}
			if body, err := io.ReadAll(res.Body); err == nil && res.StatusCode == 200 && string(body) == "hello" {
				good.Add(1)
			}
		})
	}
	all.Wait()
	fmt.Println("answered", good.Load())
	return 0
}

// inUse is heap and stacks, after what is garbage was collected.
func inUse() (heap, stacks uint64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.StackInuse
}

// heldMost is what a request that waits may take of this process.
const heldMost = 32 << 10

// Thousands of requests wait for one function at a small price, and all are
// answered once it is awake.
func TestHeld(t *testing.T) {
	calls := 8000
	if programtest.Race {
		calls = 800
	}
	w := newWorld(t, nil)
	w.function("f", 0)
	w.wake = func(context.Context, function.Ref, int) error {
		w.function("f", 1)
		return nil
	}
	l := w.lane("f")
	heap, stacks := inUse()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clients := exec.Command(self, asClients, w.url+"/f/echo", strconv.Itoa(calls))
	var said programtest.Log
	clients.Stdout, clients.Stderr = &said, &said
	if err := clients.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = clients.Process.Kill() }()
	w.until("all are held", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.line.n == calls
	})
	heapHeld, stacksHeld := inUse()
	each := func(before, after uint64) int { return int(after-before) / calls }
	perHeap, perStack := each(heap, heapHeld), each(stacks, stacksHeld)
	t.Logf("%d held requests: %d B of heap and %d B of stack each", calls, perHeap, perStack)
	if !programtest.Race && perHeap+perStack > heldMost {
		t.Errorf("a held request takes %d B, expected at most %d", perHeap+perStack, heldMost)
	}

	began := time.Now()
	fn := describe("f", 1, 0)
	fn.Spec.Concurrency = 100
	fn.Pods = []function.Pod{plainPod(t, "p", handler())}
	w.f.Put(fn)
	if err := clients.Wait(); err != nil || strings.TrimSpace(said.String()) != fmt.Sprintf("answered %d", calls) {
		t.Fatalf("%v, of %d clients: %.1000s", err, calls, said.String())
	}
	t.Logf("all answered %v after the pod came", time.Since(began).Round(time.Millisecond))
	if n := w.wakes.Load(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	w.idle("f")
}
