package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// drainClients loop at once; TERM comes after drainAnswers answers.
const (
	drainClients  = 200
	drainAnswers  = 2 * drainClients
	drainInterval = 300 * time.Millisecond
)

// A drain loses nothing: every request that was accepted is answered whole, in
// every mode, with handlers that know nothing of signals.
func TestDrainLosesNothing(t *testing.T) {
	limits := []string{"write_timeout=2m", "exec_timeout=2m", "healthcheck_interval=" + drainInterval.String()}
	inHTTP := func(command func(t *testing.T) string) func(*testing.T) *drained {
		return func(t *testing.T) *drained {
			w := startHTTP(t, command(t), limits...)
			return &drained{w: w.instance, recorded: w.recorded, path: "/slow?ms=50", empty: "slow"}
		}
	}
	inFork := func(mode string) func(*testing.T) *drained {
		return func(t *testing.T) *drained {
			recorded := filepath.Join(t.TempDir(), "record")
			env := append([]string{"fprocess=" + child(t, "fork") + " slowcat 50ms", "RECORD=" + recorded}, limits...)
			d := &drained{recorded: recorded, path: "/"}
			if mode == "classic" {
				d.w = startClassic(t, env...)
			} else {
				d.w = start(t, append(env, "mode="+mode)...)
			}
			return d
		}
	}
	for _, c := range []struct {
		name  string
		start func(*testing.T) *drained
	}{
		{"http go", inHTTP(func(t *testing.T) string { return child(t, "http") })},
		{"http python", inHTTP(func(t *testing.T) string { return interpreter(t, "python3") + " " + child(t, "naive.py") })},
		{"http node", inHTTP(func(t *testing.T) string { return interpreter(t, "node") + " " + child(t, "naive.js") })},
		{"streaming", inFork("streaming")},
		{"serializing", inFork("serializing")},
		{"classic", inFork("classic")},
		{"static", func(t *testing.T) *drained {
			dir := t.TempDir()
			text := strings.Repeat("0123456789abcdef", 1<<13)
			writeFile(t, filepath.Join(dir, "file"), text)
			w := start(t, append([]string{"mode=static", "static_path=" + dir}, limits...)...)
			return &drained{w: w, path: "/file", empty: text, static: true}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.start(t).run(t) })
	}
}

// drained is a watchdog under load that is told to stop.
type drained struct {
	w *instance
	// recorded is the file with the ids that the handler saw.
	recorded string
	path     string
	// empty is the answer to a request without a body; one with a body comes
	// back as it was.
	empty  string
	static bool

	answered atomic.Int64
	told     atomic.Pointer[time.Time]

	mu     sync.Mutex
	broken []broken
}

// broken is a request that was not answered.
type broken struct {
	id  string
	err error
	// bytes of an answer that came all the same.
	bytes int64
	at    time.Time
}

func (d *drained) run(t *testing.T) {
	before := descendants(d.w.pid)
	var clients sync.WaitGroup
	for i := range drainClients {
		clients.Go(func() { d.client(t, i) })
	}
	programtest.Eventually(t, "the load runs", func() bool { return d.answered.Load() >= drainAnswers || t.Failed() })
	now := time.Now()
	d.told.Store(&now)
	d.w.signal(syscall.SIGTERM)
	if code := d.w.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	clients.Wait()
	for _, p := range before {
		if p.alive() {
			t.Errorf("process %d (%s) outlives the watchdog", p.pid, p.command)
		}
	}
	d.judge(t)
	t.Logf("%d answered, %d not taken any more", d.answered.Load(), len(d.broken))
}

// judge fails for each request that was accepted and not answered. A
// connection that the kernel took in the moment the listener closed may be
// reset; then no handler has seen its request and no byte of an answer came.
func (d *drained) judge(t *testing.T) {
	seen := map[string]bool{}
	if d.recorded != "" {
		for _, r := range readRecords(t, d.recorded) {
			seen[r.ID] = true
		}
	}
	lost := 0
	for _, b := range d.broken {
		switch {
		case seen[b.id]:
			t.Errorf("request %s: the handler saw it, and the answer is lost: %v", b.id, b.err)
		case b.bytes > 0:
			t.Errorf("request %s: the answer is cut after %d bytes: %v", b.id, b.bytes, b.err)
		case b.at.Sub(*d.told.Load()) < drainInterval:
			t.Errorf("request %s: not taken %v after TERM, while the watchdog still listens: %v", b.id, b.at.Sub(*d.told.Load()), b.err)
		default:
			continue
		}
		if lost++; lost == 10 {
			t.Fatal("and so on")
		}
	}
}

// client sends requests until one is not taken any more. Clients differ in the
// method, the size of the body and whether they keep their connection.
func (d *drained) client(t *testing.T, i int) {
	var body []byte
	switch {
	case d.static:
	case i%3 == 1:
		body = []byte("5byte")
	case i%3 == 2:
		body = bytes.Repeat(fmt.Appendf(nil, "%015d\n", i), 1<<16)
	}
	want := body
	if want == nil {
		want = []byte(d.empty)
	}
	var got bytes.Buffer // the answer, in the same memory each time
	keep := i/3%2 == 0
	var conn *counted
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for n := 0; !t.Failed(); n++ {
		id := fmt.Sprintf("%d-%d", i, n)
		if conn == nil {
			raw, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(d.w.port), programtest.Patience)
			if err != nil {
				d.fail(t, broken{id: id, err: err})
				return
			}
			raw.SetDeadline(time.Now().Add(4 * programtest.Patience))
			conn = &counted{Conn: raw}
			conn.in = bufio.NewReader(conn)
		}
		conn.bytes = 0
		got.Reset()
		open, err := d.exchange(conn, id, body, keep, &got)
		if err == nil && !bytes.Equal(got.Bytes(), want) {
			err = fmt.Errorf("answer of %d bytes %.60q, want %d bytes", got.Len(), got.Bytes(), len(want))
		}
		if err != nil {
			d.fail(t, broken{id: id, err: err, bytes: conn.bytes})
			return
		}
		d.answered.Add(1)
		if !open {
			conn.Close()
			conn = nil
		}
	}
}

// fail notes a request that was not answered. Before TERM that is an error.
func (d *drained) fail(t *testing.T, b broken) {
	b.at = time.Now()
	if d.told.Load() == nil {
		t.Errorf("request %s before TERM: %v", b.id, b.err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = append(d.broken, b)
}

// counted counts what is read.
type counted struct {
	net.Conn
	in    *bufio.Reader
	bytes int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes += int64(n)
	return n, err
}

// exchange sends one request and reads its answer, which must be a 200, into
// got; open says whether the connection can carry another.
func (d *drained) exchange(conn *counted, id string, body []byte, keep bool, got *bytes.Buffer) (open bool, err error) {
	method, connection := "GET", "close"
	if body != nil {
		method = "POST"
	}
	if keep {
		connection = "keep-alive"
	}
	request := net.Buffers{fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: x\r\nX-Id: %s\r\nConnection: %s\r\nContent-Length: %d\r\n\r\n",
		method, d.path, id, connection, len(body)), body}
	_, sendErr := request.WriteTo(conn.Conn) // an answer may come all the same
	resp, err := http.ReadResponse(conn.in, nil)
	if err != nil {
		return false, fmt.Errorf("%w (sending: %v)", err, sendErr)
	}
	if _, err := got.ReadFrom(resp.Body); err != nil {
		return false, err
	}
	if resp.StatusCode == 503 && resp.Header.Get("X-Watchdog-Reject") == "draining" {
		conn.bytes = 0 // a refusal is no cut answer
		return false, errors.New("refused: draining")
	}
	if resp.StatusCode != 200 {
		return false, fmt.Errorf("status %d %.200q", resp.StatusCode, got.Bytes())
	}
	return keep && !resp.Close, nil
}
