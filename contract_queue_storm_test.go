package main_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// stormer is one client of a storm: it sends requests of every shape, one
// after the other, and leaves in the middle of some.
type stormer struct {
	w    *served
	name int
	rnd  *rand.Rand
	conn net.Conn
	in   *bufio.Reader
	// whole, refused and left are the ids of requests that ended so.
	whole, refused, left []string
}

const stormRequests = 25

// run returns the first thing that was wrong, "" for nothing.
func (s *stormer) run() string {
	defer s.close()
	long := numbered(300_000)
	for n := range stormRequests {
		id := fmt.Sprintf("%d-%d", s.name, n)
		body := long[:[]int{0, 5, 70_000, len(long)}[s.rnd.IntN(4)]]
		if fault := s.one(id, body); fault != "" {
			return "request " + id + ": " + fault
		}
	}
	return ""
}

func (s *stormer) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func (s *stormer) one(id, body string) string {
	if s.conn == nil {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(s.w.port), programtest.Patience)
		if err != nil {
			return err.Error()
		}
		s.conn, s.in = conn, bufio.NewReader(conn)
	}
	s.conn.SetDeadline(time.Now().Add(programtest.Patience))
	var headers []string
	hurried := s.rnd.IntN(4) == 0
	if hurried {
		headers = append(headers, "X-Timeout: 20ms")
	}
	path := "/slow?ms=" + strconv.Itoa(s.rnd.IntN(8))
	raw := rawPost(path, id, body, headers...)
	if s.rnd.IntN(2) == 0 {
		raw = rawChunks(path, id, body, headers...)
	}
	want := body
	if body == "" {
		want = "slow"
	}
	if s.rnd.IntN(4) == 0 { // leaves, with the body sent or not
		s.left = append(s.left, id)
		sent := s.conn
		go io.WriteString(sent, raw[:len(raw)-s.rnd.IntN(len(body)/2+1)])
		time.Sleep(time.Duration(s.rnd.IntN(3000)) * time.Microsecond)
		if s.rnd.IntN(2) == 0 {
			s.conn.(*net.TCPConn).SetLinger(0)
		}
		s.close()
		return ""
	}
	go io.WriteString(s.conn, raw)
	return s.judge(id, want, hurried)
}

// judge reads the answer to a request. One that is hurried may be told that
// its time is over, or see its answer cut then.
func (s *stormer) judge(id, want string, hurried bool) string {
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil {
		return err.Error()
	}
	got, err := io.ReadAll(resp.Body)
	a := answer{resp, string(got), err}
	if resp.Close || err != nil {
		s.close()
	}
	switch {
	case err == nil && a.StatusCode == 200 && a.body == want:
		s.whole = append(s.whole, id)
		return ""
	case err == nil && a.StatusCode == 503 && a.Header.Get("X-Watchdog-Reject") == "queue":
		s.refused = append(s.refused, id)
		return ""
	case hurried && (err != nil || a.StatusCode == 504):
		return ""
	}
	return told(a, nil) + fmt.Sprintf("; want %d bytes", len(want))
}

// Clients that come, wait, leave, wait in vain and are refused, all at once,
// lose nobody's answer, no slot and no place, and what is refused the handler
// has not seen.
func TestStormInTheQueue(t *testing.T) {
	parallel(t)
	const clients = 40
	w := startMisbehaving(t, "max_inflight=2", "max_queue=5", "queue_timeout=50ms")
	wantStatus(t, w.do("GET", "/status", ""), 200)
	before := w.usage()
	all := make([]*stormer, clients)
	faults := make(chan string, clients)
	var running sync.WaitGroup
	for i := range all {
		all[i] = &stormer{w: w, name: i, rnd: rand.New(rand.NewPCG(1, uint64(i)))}
		running.Go(func() { faults <- all[i].run() })
	}
	running.Wait()
	close(faults)
	for fault := range faults {
		if fault != "" {
			t.Error(fault)
		}
	}
	w.waitDepth(0)
	w.waitSample("http_requests_in_flight", 0)
	seen := map[string]int{}
	for _, r := range w.records() {
		if seen[r.ID]++; seen[r.ID] > 1 {
			t.Errorf("the handler saw request %s twice", r.ID)
		}
	}
	whole, refused, left := 0, 0, 0
	for _, s := range all {
		whole, refused, left = whole+len(s.whole), refused+len(s.refused), left+len(s.left)
		for _, id := range s.whole {
			if seen[id] != 1 {
				t.Errorf("request %s is answered, and the handler did not see it", id)
			}
		}
		for _, id := range s.refused {
			if seen[id] != 0 {
				t.Errorf("request %s is refused, and the handler saw it", id)
			}
		}
	}
	if whole == 0 || refused == 0 || left == 0 {
		t.Errorf("%d answered, %d refused, %d left: no storm", whole, refused, left)
	}
	t.Logf("%d answered, %d refused, %d left", whole, refused, left)
	// Both slots and the places are there: two run, one waits.
	for i := range 2 {
		_, release := w.hold(fmt.Sprint("holder", i))
		defer release()
	}
	a := w.call(rawGet("/status", "waiter")).answer()
	wantRefused(t, a)
	if !strings.Contains(a.body, "queue_timeout") {
		t.Errorf("body %q, want it to have waited", a.body)
	}
	w.wantNoLeak(usage{before.goroutines + 12, before.descriptors + 12, before.processes})
}
