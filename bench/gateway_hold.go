package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The case of held requests: so many at once for one function that sleeps,
// each on a connection of its own.
const (
	heldRequests = 8000
	// heldMost is what each may take of weir's heap and stacks, as they are:
	// nothing is collected for the measurement.
	heldMost = 32 << 10
	heldName = "sleeper"
	heldBody = "hello"
	// heldSpare are descriptors that client and gateway need beside the
	// requests': the function takes heldAtOnce of them at a time.
	heldSpare  = 1000
	heldAtOnce = 100
	// heldTimeout is for all of them to arrive, and again to be answered.
	heldTimeout = 90 * time.Second
	// dialsAtOnce stays far under what the kernel queues for a listener.
	dialsAtOnce = 64
)

// burst is what became of requests that were sent at once.
type burst struct {
	Statuses map[int]int
	// Wrong have another body than the one sent, Failed no answer.
	Wrong, Failed int
	// Fault is one of the reasons.
	Fault string
	// First and Last are the times of answers.
	First, Last time.Time
}

// burstRole sends args[0] requests for the path args[1] to addr at once, and
// prints what became of them.
func burstRole(addr string, args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(sendBurst(addr, args[1], n))
}

func sendBurst(addr, path string, n int) *burst {
	b := &burst{Statuses: map[int]int{}}
	post := request("POST", path, heldBody)
	dialing := make(chan struct{}, dialsAtOnce)
	var all sync.WaitGroup
	var mu sync.Mutex
	for range n {
		all.Go(func() {
			status, body, err := sendOne(addr, post, dialing)
			mu.Lock()
			defer mu.Unlock()
			b.count(status, body, err)
		})
	}
	all.Wait()
	return b
}

func (b *burst) count(status int, body string, err error) {
	if err != nil {
		b.Failed++
		b.Fault = err.Error()
		return
	}
	b.Last = time.Now()
	if b.First.IsZero() {
		b.First = b.Last
	}
	b.Statuses[status]++
	switch {
	case status != http.StatusOK:
		b.Fault = fmt.Sprintf("status %d: %s", status, body)
	case body != heldBody:
		b.Wrong++
	}
}

func sendOne(addr string, post []byte, dialing chan struct{}) (status int, body string, err error) {
	dialing <- struct{}{}
	conn, err := net.DialTimeout("tcp4", addr, heldTimeout)
	if err == nil {
		_, err = conn.Write(post)
	}
	<-dialing
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * heldTimeout))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, string(text), err
}

func gatewayHolds(ctx context.Context, s settings, r *report) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	// Go programs raise the soft limit to the hard one by themselves.
	if limit.Max < heldRequests+heldSpare {
		r.note("not measured", fmt.Sprintf("the hard limit of open files is %d, %d are needed", limit.Max, heldRequests+heldSpare))
		return nil
	}
	gate := filepath.Join(s.dir, "gate")
	g := &group{}
	defer g.stop()
	// One replica, whatever waits: it is the gateway that is measured.
	weir := g.add(s.startWeir(ctx, fmt.Sprintf(`functions:
  %s:
    fprocess: %s role late 127.0.0.1:$PORT %s
    environment: {mode: http, max_inflight: %d, max_queue: %d}
    labels: {com.openfaas.scale.max: "1", com.openfaas.scale.zero: "true"}
`, heldName, s.self, gate, heldAtOnce, heldAtOnce)))
	if g.err != nil {
		return g.err
	}
	before, err := memoryOf(weir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*heldTimeout)
	defer cancel()
	var said bytes.Buffer
	clients := exec.CommandContext(ctx, s.self, s.role("burst", weir.addr, strconv.Itoa(heldRequests), "/function/"+heldName)[1:]...)
	clients.Stdout, clients.Stderr = &said, &said
	if err := clients.Start(); err != nil {
		return err
	}
	held, err := holdAll(ctx, weir)
	if err != nil {
		cancel()
		return errors.Join(err, clients.Wait(), errors.New(said.String()+weir.out.String()))
	}
	opened := time.Now()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		return err
	}
	if err := clients.Wait(); err != nil {
		return fmt.Errorf("clients: %w: %s", err, said.String())
	}
	var b burst
	if err := json.Unmarshal(said.Bytes(), &b); err != nil {
		return fmt.Errorf("clients: %w: %s", err, said.String())
	}
	b.report(r, before, held, opened)
	return nil
}

// holdAll waits until all requests are held, and says what they take.
func holdAll(ctx context.Context, weir *server) (used, error) {
	ctx, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	err := eventually(ctx, func() error {
		n, err := weir.metric("weir_held_requests")
		if err == nil && n != heldRequests {
			err = fmt.Errorf("%.0f requests are held, expected %d", n, heldRequests)
		}
		return err
	})
	if err != nil {
		return used{}, err
	}
	return memoryOf(weir)
}

func (b *burst) report(r *report, before, held used, opened time.Time) {
	each := (held.heap + held.stack - before.heap - before.stack) / heldRequests
	r.bound(fmt.Sprintf("%d requests held for one function: heap and stack in use, each", heldRequests), fmt.Sprintf("≤ %d KiB", heldMost>>10),
		fmt.Sprintf("%.1f KiB (%.1f of heap, %.1f of stack)", each/1024, (held.heap-before.heap)/heldRequests/1024, (held.stack-before.stack)/heldRequests/1024), each <= heldMost)
	good := b.Statuses[http.StatusOK] - b.Wrong
	measured := fmt.Sprint(good)
	if good != heldRequests {
		measured = fmt.Sprintf("%d (by status %v, %d wrong, %d failed: %.100s)", good, b.Statuses, b.Wrong, b.Failed, b.Fault)
	}
	r.bound("of these answered 200, whole", fmt.Sprint(heldRequests), measured, good == heldRequests)
	r.note("resident memory, of each", fmt.Sprintf("%.1f KiB", (held.resident-before.resident)/heldRequests/1024))
	r.note("from the handler's start to the first answer, and to the last, ms",
		fmt.Sprintf("%d, %d", b.First.Sub(opened).Milliseconds(), b.Last.Sub(opened).Milliseconds()))
}

// used is what a weir takes, in bytes: heap and stacks that are in use, and
// what is resident.
type used struct{ heap, stack, resident float64 }

func memoryOf(weir *server) (u used, err error) {
	for name, to := range map[string]*float64{
		"go_memstats_heap_inuse_bytes": &u.heap, "go_memstats_stack_inuse_bytes": &u.stack, "process_resident_memory_bytes": &u.resident,
	} {
		if *to, err = weir.metric(name); err != nil {
			return used{}, err
		}
	}
	return u, nil
}

// eventually tries until there is no error, and returns the last one when ctx
// ends or startTimeout is over, whichever it bounds.
func eventually(ctx context.Context, try func() error) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
