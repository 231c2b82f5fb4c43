package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A stay keeps a function up in its own way, through weir's Service, and says
// when that ended.
type stay func(f *function, weir string, until <-chan struct{}) (ended time.Time, err error)

// Functions sleep when they are idle, and only then: each of these has its own
// reason to stay up for longer than zero-after, and sleeps when that is over.
// The first has none, so that the others are seen to stay while it goes.
func TestToZeroOnlyWhenIdle(t *testing.T) {
	c := needNode(t)
	r := sharedRelease(t)
	const after = 5 * time.Second
	weir := r.service(t, "weir")
	keep := map[string]stay{
		"idle":    oneCall,
		"call":    longCall,
		"socket":  openSocket,
		"stream":  openStream,
		"trickle": trickle,
		"aside":   pastWeir,
	}
	fns := map[string]*function{}
	for name := range keep {
		f := r.deploy(t, zero("stay-"+name, map[string]string{"weir/zero-after": after.String(), "weir/max": "1"}))
		fns[name] = f
	}
	marks := map[string]int64{}
	released := make(chan struct{})
	type ending struct {
		at  time.Time
		err error
	}
	ended := map[string]chan ending{}
	for name, f := range fns {
		f.asleep(t)
		marks[name] = c.mark(t)
		ended[name] = make(chan ending, 1)
		stay := keep[name]
		go func(end chan<- ending) {
			at, err := stay(f, weir, released)
			end <- ending{at, err}
		}(ended[name])
	}
	for name, f := range fns {
		eventually(t, name+" is up", func() error {
			if n, err := f.replicas(); err != nil || n != 1 {
				return fmt.Errorf("%d replicas: %v", n, err)
			}
			return nil
		})
	}
	// The idle one comes and goes twice: that is more than twice zero-after.
	fns["idle"].asleep(t)
	if _, err := oneCall(fns["idle"], weir, nil); err != nil {
		t.Error(err)
	}
	fns["idle"].asleep(t)
	close(released)
	var soonest, latest time.Duration
	for name, f := range fns {
		var end ending
		select {
		case end = <-ended[name]:
		case <-time.After(patience):
			t.Fatalf("%s does not end", name)
		}
		if end.err != nil {
			t.Errorf("%s: %v", name, end.err)
		}
		if name == "idle" {
			continue
		}
		f.asleep(t)
		for _, w := range f.writes(t, marks[name], 0) {
			if !w.Done || w.New > 0 {
				continue
			}
			later := w.StageTimestamp.Sub(end.at)
			t.Logf("%s slept %.1f s after its end: %v", name, later.Seconds(), w)
			if later < after {
				t.Errorf("%s was put to sleep too soon, %v after its end: %v", name, later, w)
			}
			if soonest == 0 || later < soonest {
				soonest = later
			}
			latest = max(latest, later)
		}
	}
	measured.add("to zero only when idle: a call, a WebSocket, an event stream, a trickle, and calls past weir; zero-after "+after.String(),
		fmt.Sprintf("slept %.1f to %.1f s after the end", soonest.Seconds(), latest.Seconds()), "≥ "+after.String())
}

func oneCall(f *function, weir string, _ <-chan struct{}) (ended time.Time, err error) {
	err = greet(weir + f.path())
	return time.Now(), err
}

func greet(url string) error {
	resp, err := plainClient.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "hello\n") {
		err = fmt.Errorf("%s: %s: %.200q", url, resp.Status, body)
	}
	return err
}

// longCall is one that takes longer than zero-after.
func longCall(f *function, weir string, _ <-chan struct{}) (ended time.Time, err error) {
	err = greet(weir + f.path() + "?ms=20000")
	return time.Now(), err
}

// openStream reads events that are all there is, one in 4 s.
func openStream(f *function, weir string, _ <-chan struct{}) (ended time.Time, err error) {
	resp, err := plainClient.Get(weir + f.path() + "/sse?n=6&ms=4000")
	if err != nil {
		return ended, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if n := strings.Count(string(body), "data: "); err == nil && n != 6 {
		err = fmt.Errorf("%d events, want 6", n)
	}
	return time.Now(), err
}

// openSocket keeps a WebSocket on which nothing is said, until it is told.
func openSocket(f *function, weir string, until <-chan struct{}) (ended time.Time, err error) {
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(weir, "http://"), 10*time.Second)
	if err != nil {
		return ended, err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: weir\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", f.path())
	in := bufio.NewReader(conn)
	conn.SetDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return ended, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return ended, fmt.Errorf("upgrade: %s", resp.Status)
	}
	<-until
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "still there"); err != nil {
		return ended, err
	}
	got := make([]byte, len("still there"))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "still there" {
		return ended, fmt.Errorf("after all that time %q: %w", got, err)
	}
	return time.Now(), nil
}

// trickle calls more often than zero-after.
func trickle(f *function, weir string, until <-chan struct{}) (ended time.Time, err error) {
	url := weir + f.path()
	return again(until, func() error { return greet(url) })
}

// pastWeir calls the function's pod, and weir has no part in it: only the pod's
// own counters tell of it.
func pastWeir(f *function, weir string, until <-chan struct{}) (ended time.Time, err error) {
	if _, err := oneCall(f, weir, nil); err != nil { // wakes it
		return ended, err
	}
	pods, err := f.pods()
	if err != nil {
		return ended, err
	}
	url := "http://" + pods[0].Status.PodIP + ":8080/"
	return again(until, func() error { return greet(url) })
}

// again calls every other second.
func again(until <-chan struct{}, call func() error) (ended time.Time, err error) {
	for {
		if err := call(); err != nil {
			return ended, err
		}
		ended = time.Now()
		select {
		case <-until:
			return ended, nil
		case <-time.After(2 * time.Second):
		}
	}
}
