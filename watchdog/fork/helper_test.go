package fork

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/watchdog/process"
)

// patience bounds every wait for a condition.
const patience = 30 * time.Second

// TestMain lets os/signal start the goroutine that it keeps for good, so that
// no test is charged for it.
func TestMain(m *testing.M) {
	process.NewReaper(false).Close()
	os.Exit(m.Run())
}

// rig is a Handler behind a real server that answers its errors as a watchdog
// does.
type rig struct {
	*httptest.Server
	t       *testing.T
	h       *Handler
	limit   time.Duration // of an invocation, 0 none
	results chan error    // what Serve returned, in order
	stderr  *lockedBuffer
	client  *http.Client
}

type option func(*rig)

func limit(d time.Duration) option { return func(r *rig) { r.limit = d } }
func with(f func(*Handler)) option { return func(r *rig) { f(r.h) } }
func mode(m Mode) option           { return with(func(h *Handler) { h.Mode = m }) }
func readTimeout(d time.Duration) option {
	return func(r *rig) { r.Config.ReadTimeout = d }
}

// shell serves with /bin/sh -c script.
func shell(t *testing.T, script string, options ...option) *rig {
	t.Helper()
	return serve(t, []string{"/bin/sh", "-c", script}, options...)
}

func serve(t *testing.T, command []string, options ...option) *rig {
	t.Helper()
	leaks(t)
	reaper := process.NewReaper(false)
	t.Cleanup(reaper.Close)
	r := &rig{t: t, results: make(chan error, 10000), stderr: new(lockedBuffer)}
	r.h = &Handler{
		Reaper: reaper, Command: command, Environ: []string{"PATH=" + os.Getenv("PATH")},
		ContentType: "application/octet-stream", CGIHeaders: true, Stderr: r.stderr, LogBufferSize: 64 << 10,
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(r.answer))
	for _, o := range options {
		o(r)
	}
	r.Start()
	t.Cleanup(r.Close)
	r.client = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(r.client.CloseIdleConnections)
	return r
}

// wrapped is what a watchdog puts around the server's writer.
type wrapped struct {
	http.ResponseWriter
	begun bool
}

func (w *wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w *wrapped) WriteHeader(status int)      { w.begun = true; w.ResponseWriter.WriteHeader(status) }
func (w *wrapped) Write(p []byte) (int, error) { w.begun = true; return w.ResponseWriter.Write(p) }

func (r *rig) answer(rw http.ResponseWriter, req *http.Request) {
	w := &wrapped{ResponseWriter: rw}
	var deadline time.Time
	limit := r.limit
	if d, err := time.ParseDuration(req.Header.Get("X-Limit")); err == nil {
		limit = d
	}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	err := r.h.Serve(w, req, deadline)
	r.results <- err
	if err == nil {
		return
	}
	if w.begun || errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler)
	}
	var request *invoke.RequestError
	var exit *invoke.ExitError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		http.Error(w, "time is over", http.StatusGatewayTimeout)
	case errors.As(err, &request):
		http.Error(w, err.Error(), request.Status)
	case errors.Is(err, invoke.ErrAnswerTooLarge):
		http.Error(w, err.Error(), http.StatusBadGateway)
	case errors.As(err, &exit):
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s\n%s", exit.Text, exit.Output)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// result is what Serve returned for the next request.
func (r *rig) result() error {
	r.t.Helper()
	select {
	case err := <-r.results:
		return err
	case <-time.After(patience):
		r.t.Fatal("Serve did not return")
		return nil
	}
}

// post sends body, or none if it is nil, and returns the whole answer.
func (r *rig) post(body io.Reader) (*http.Response, string, error) {
	r.t.Helper()
	resp, err := r.client.Post(r.URL+"/path?a=b", "text/plain", body)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return resp, string(out), err
}

// want posts body and checks status and answer.
func (r *rig) want(body io.Reader, status int, answer string) *http.Response {
	r.t.Helper()
	resp, out, err := r.post(body)
	if err != nil {
		r.t.Fatalf("answer: %v", err)
	}
	if resp.StatusCode != status || out != answer {
		r.t.Fatalf("answered %d %.200q, want %d %.200q", resp.StatusCode, out, status, answer)
	}
	return resp
}

// wantCut posts and checks that the answer arrives, but not whole.
func (r *rig) wantCut(answer string) {
	r.t.Helper()
	resp, out, err := r.post(nil)
	if err == nil {
		r.t.Fatalf("answered %d %.200q as if it were whole", resp.StatusCode, out)
	}
	if out != answer {
		r.t.Fatalf("cut after %.200q, want %.200q (%v)", out, answer, err)
	}
}

// dial opens a connection and sends text on it.
func (r *rig) dial(text string) (net.Conn, *bufio.Reader) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, text)
	return conn, bufio.NewReader(conn)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// leaks checks at the end of the test, after all that is set up later has been
// closed, that goroutines, descriptors and children are as many as now. Only
// the first call of a test counts.
func leaks(t *testing.T) {
	t.Helper()
	if checked[t] {
		return
	}
	checked[t] = true
	// The collector closes files that were forgotten.
	percent := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	goroutines, files, children := runtime.NumGoroutine(), openFiles(), kids()
	t.Cleanup(func() {
		end := time.Now().Add(10 * time.Second)
		for runtime.NumGoroutine() > goroutines || openFiles() > files || kids() > children {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("goroutines %d → %d, descriptors %d → %d, children %d → %d\n%s",
					goroutines, runtime.NumGoroutine(), files, openFiles(), children, kids(), buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

var checked = map[*testing.T]bool{}

// openFiles leaves out the runtime's own, which it opens when it first needs
// them and keeps.
func openFiles() (n int) {
	all, _ := os.ReadDir("/proc/self/fd")
	for _, e := range all {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.Contains(to, "[eventpoll]") && !strings.Contains(to, "[eventfd]") {
			n++
		}
	}
	return n
}

// kids counts the children of this process, zombies too.
func kids() (n int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		n += len(strings.Fields(string(text)))
	}
	return n
}

// alive says whether pid runs; a zombie does not.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// numberIn waits until a process has written its number to the file.
func numberIn(t *testing.T, file string) string {
	t.Helper()
	var pid string
	eventually(t, "a number in "+file, func() bool {
		text, _ := os.ReadFile(file)
		pid = strings.TrimSuffix(string(text), "\n")
		_, err := strconv.Atoi(pid)
		return err == nil && strings.HasSuffix(string(text), "\n")
	})
	return pid
}

type lockedBuffer struct {
	mu     sync.Mutex
	writes []string
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes = append(b.writes, string(p))
	return len(p), nil
}

func (b *lockedBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.writes...)
}

func (b *lockedBuffer) String() string { return strings.Join(b.lines(), "") }
