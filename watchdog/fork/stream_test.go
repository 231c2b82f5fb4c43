package fork

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/watchdog/process"
)

// of-watchdog sent nothing before the end.
func TestStreamPassesBothWaysAsItComes(t *testing.T) {
	r := serve(t, []string{"cat"})
	body, send := io.Pipe()
	req, _ := http.NewRequest("POST", r.URL, body)
	go io.WriteString(send, "line 0\n")
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/octet-stream" {
		t.Errorf("Content-Type %q", ct)
	}
	buf := make([]byte, 100)
	for i := range 20 {
		n, err := io.ReadFull(resp.Body, buf[:len(fmt.Sprintf("line %d\n", i))])
		if got := string(buf[:n]); err != nil || got != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("answer %d: %q, %v", i, got, err)
		}
		fmt.Fprintf(send, "line %d\n", i+1)
	}
	send.Close()
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != "line 20\n" {
		t.Fatalf("end of the answer: %q, %v", rest, err)
	}
	if err := r.result(); err != nil {
		t.Fatal(err)
	}
}

// of-watchdog answered 200 to all of these.
func TestStreamFaultsBeforeOutputHaveAStatus(t *testing.T) {
	for _, c := range []struct {
		name, script string
		status       int
		answer       string
	}{
		{"exit", "cat >/dev/null; exit 3", 500, "exit status 3\n"},
		{"exit unread", "exit 255", 500, "exit status 255\n"},
		{"signal", "kill -9 $$", 500, "signal: killed\n"},
		{"segv", "ulimit -c 0; kill -SEGV $$", 500, "signal: segmentation fault\n"},
		{"silence", "cat >/dev/null", 200, ""},
		{"output", "cat; echo .", 200, "body.\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := shell(t, c.script).want(strings.NewReader("body"), c.status, c.answer)
			if c.status == 200 && resp.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("Content-Type %q", resp.Header.Get("Content-Type"))
			}
		})
	}
}

func TestStreamFaultsAfterOutputCutTheAnswer(t *testing.T) {
	t.Run("exit", func(t *testing.T) {
		r := shell(t, "echo begun; exit 1")
		r.wantCut("begun\n")
		var exit *invoke.ExitError
		if err := r.result(); !errors.As(err, &exit) || exit.Code != 1 {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("signal", func(t *testing.T) {
		r := shell(t, "echo begun; kill -TERM $$")
		r.wantCut("begun\n")
		var exit *invoke.ExitError
		if err := r.result(); !errors.As(err, &exit) || exit.Code != 128+15 {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("time", func(t *testing.T) {
		r := shell(t, "echo begun; exec sleep 600", limit(2*time.Second))
		r.wantCut("begun\n")
		if err := r.result(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestNotStarted(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "file")
	os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o644)
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		for path, cause := range map[string]error{"/nonexistent/program": process.ErrNotFound, notExecutable: process.ErrNotExecutable} {
			r := serve(t, []string{path}, mode(m))
			resp, out, err := r.post(strings.NewReader("body"))
			if err != nil || resp.StatusCode != 500 {
				t.Fatalf("mode %d: %v, %v", m, resp, err)
			}
			if err := r.result(); !errors.Is(err, invoke.ErrNotStarted) || !errors.Is(err, cause) {
				t.Errorf("mode %d: Serve: %v; answered %q", m, err, out)
			}
		}
	}
	t.Run("no process to be had", func(t *testing.T) {
		r := serve(t, []string{"cat"})
		r.h.Reaper.Close()
		r.post(nil)
		if err := r.result(); !errors.Is(err, invoke.ErrNotStarted) {
			t.Errorf("Serve: %v", err)
		}
		if err := notStarted(syscall.EAGAIN); !errors.Is(err, invoke.ErrNotStarted) || !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("EAGAIN: %v", err)
		}
	})
	t.Run("headers too large", func(t *testing.T) {
		r := serve(t, []string{"cat"})
		req, _ := http.NewRequest("POST", r.URL, strings.NewReader("body"))
		req.Header.Set("X-Large", strings.Repeat("x", 200<<10))
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err := r.result(); !errors.Is(err, syscall.E2BIG) || !errors.Is(err, invoke.ErrNotStarted) || !strings.Contains(string(out), "headers") {
			t.Errorf("Serve: %v; answered %d %q", err, resp.StatusCode, out)
		}
		r.want(strings.NewReader("next"), 200, "next")
	})
}

// of-watchdog: 500, a zombie and a goroutine for each.
func TestChildMayCloseItsInput(t *testing.T) {
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		r := shell(t, "exec <&-; echo ok", mode(m))
		for _, size := range []int{0, 5, 70 << 10, 3 << 20} {
			for range 2 {
				r.want(bytes.NewReader(make([]byte, size)), 200, "ok\n")
			}
		}
	}
}

// A body that nobody wants costs the connection only when it is long or late.
func TestUnwantedBodyKeepsTheConnection(t *testing.T) {
	r := shell(t, "exec <&-; sleep 0.2; echo ok")
	reused := 0
	for range 4 {
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			if i.Reused {
				reused++
			}
		}}
		ctx := httptrace.WithClientTrace(context.Background(), trace)
		req, _ := http.NewRequestWithContext(ctx, "POST", r.URL, strings.NewReader("small body"))
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if reused != 3 {
		t.Errorf("reused %d times of 3", reused)
	}
}

// What follows a body that was given up is no request.
func TestLateBodyIsNoRequest(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	r := shell(t, "exec <&-; echo ok", func(r *rig) {
		next := r.Config.Handler
		r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			mu.Lock()
			seen = append(seen, req.URL.Path)
			mu.Unlock()
			next.ServeHTTP(w, req)
		})
	})
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	conn, in := r.dial(fmt.Sprintf("POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nhalf", 4+len(smuggled)))
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(resp.Body); string(out) != "ok\n" || err != nil {
		t.Fatalf("answered %q, %v", out, err)
	}
	if err := r.result(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, smuggled)
	if more, err := io.ReadAll(in); len(more) > 0 {
		t.Errorf("the connection went on: %q, %v", more, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 1 {
		t.Errorf("requests seen: %q", seen)
	}
}

// of-watchdog: the grandchild held the request past every timeout.
func TestExitEndsTheInvocation(t *testing.T) {
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		t.Run(fmt.Sprintf("group/%d", m), func(t *testing.T) {
			r := shell(t, "sleep 600 & echo $!", mode(m))
			_, out, err := r.post(nil)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the rest of the group is killed", func() bool { return !alive(strings.TrimSpace(out)) })
		})
		// Out of the group nobody is killed, but nobody is waited for.
		t.Run(fmt.Sprintf("session/%d", m), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			r := shell(t, "setsid sh -c 'echo $$ >"+file+"; exec sleep 600' & until [ -s "+file+" ]; do :; done; echo done", mode(m))
			r.want(strings.NewReader("body"), 200, "done\n")
			pid := numberIn(t, file)
			if !alive(pid) {
				t.Error("it was killed")
			}
			killPid(t, pid)
		})
		t.Run(fmt.Sprintf("writer/%d", m), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			r := shell(t, "setsid sh -c 'echo $$ >"+file+"; while echo noise; do :; done' & until [ -s "+file+" ]; do :; done", mode(m))
			resp, _, err := r.post(nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%v, %v", resp, err)
			}
			pid := numberIn(t, file)
			eventually(t, "the pipe is closed on the writer", func() bool { return !alive(pid) })
		})
	}
}

func killPid(t *testing.T, pid string) {
	t.Helper()
	var n int
	fmt.Sscan(pid, &n)
	if n > 1 {
		syscall.Kill(n, syscall.SIGKILL)
	}
}

// What is in the pipe at the exit is the answer's, however slowly it is taken.
func TestOutputOfAChildThatIsGoneIsWhole(t *testing.T) {
	r := shell(t, "setsid sleep 600 & head -c 60000 /dev/zero; echo $! >&2")
	for range 10 {
		_, out, err := r.post(nil)
		if err != nil || len(out) != 60000 {
			t.Fatalf("%d bytes, %v", len(out), err)
		}
	}
	for _, pid := range strings.Fields(r.stderr.String()) {
		killPid(t, pid)
	}
}

func TestTimeEndsTheGroup(t *testing.T) {
	inAllModes(t, func(m Mode) func() {
		file := filepath.Join(t.TempDir(), "pid")
		r := shell(t, "sleep 600 & echo $! >"+file+"; wait", mode(m), limit(2*time.Second))
		return func() {
			if resp, out, err := r.post(strings.NewReader("body")); err != nil || resp.StatusCode != 504 {
				t.Errorf("mode %d: answered %v %q, %v", m, resp, out, err)
			}
			pid := numberIn(t, file)
			eventually(t, "the group is killed", func() bool { return !alive(pid) })
		}
	})
	t.Run("over before the start", func(t *testing.T) {
		r := serve(t, []string{"cat"}, limit(time.Nanosecond))
		r.want(nil, 504, "time is over\n")
	})
}

// The client that does not read holds the answer no longer than its time.
func TestTimeEndsAWriteThatIsStuck(t *testing.T) {
	r := serve(t, []string{"cat", "/dev/zero"}, limit(500*time.Millisecond))
	r.dial("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := r.result(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Serve: %v", err)
	}
}

// of-watchdog let the fork go on.
func TestClientGoneEndsTheGroup(t *testing.T) {
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		for _, begun := range []string{"", "echo begun;"} {
			file := filepath.Join(t.TempDir(), "pid")
			r := shell(t, begun+"sleep 600 & echo $! >"+file+"; wait", mode(m))
			conn, _ := r.dial("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
			pid := numberIn(t, file)
			conn.Close()
			if err := r.result(); !errors.Is(err, context.Canceled) {
				t.Errorf("Serve: %v", err)
			}
			eventually(t, "the group is killed", func() bool { return !alive(pid) })
		}
	}
	t.Run("while it writes", func(t *testing.T) {
		r := serve(t, []string{"cat", "/dev/zero"})
		conn, in := r.dial("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		in.ReadByte()
		conn.Close()
		if err := r.result(); !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
}

// A body that is cut is never one that ended.
func TestCutBodyKillsTheChild(t *testing.T) {
	for name, text := range map[string]string{
		"length": "Content-Length: 100\r\n\r\npart",
		"chunks": "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := shell(t, "cat >"+dir+"/body; echo >"+dir+"/whole")
			conn, _ := r.dial("POST / HTTP/1.1\r\nHost: x\r\n" + text)
			eventually(t, "the first part", func() bool { b, _ := os.ReadFile(dir + "/body"); return string(b) == "part" })
			conn.Close()
			if r.result() == nil {
				t.Error("Serve: nil")
			}
			if _, err := os.Stat(dir + "/whole"); err == nil {
				t.Error("the child took it for whole")
			}
		})
	}
	t.Run("broken", func(t *testing.T) {
		r := shell(t, "cat >/dev/null; sleep 600")
		_, in := r.dial("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nnonsense\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != 400 {
			t.Errorf("%v, %v; Serve: %v", resp, err, r.result())
		}
	})
}

func TestReadTimeoutBoundsReadingOnly(t *testing.T) {
	t.Run("late body", func(t *testing.T) {
		inAllModes(t, func(m Mode) func() {
			r := serve(t, []string{"cat"}, mode(m), readTimeout(time.Second))
			return func() {
				_, in := r.dial("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != http.StatusRequestTimeout {
					t.Errorf("mode %d: %v, %v; Serve: %v", m, resp, err, r.result())
				}
			}
		})
	})
	t.Run("long work", func(t *testing.T) {
		inAllModes(t, func(m Mode) func() {
			r := shell(t, "cat; sleep 1.5; echo .", mode(m), readTimeout(time.Second))
			return func() {
				var wg sync.WaitGroup
				for _, body := range []string{"body", ""} {
					wg.Go(func() {
						if _, out, err := r.post(strings.NewReader(body)); out != body+".\n" {
							t.Errorf("mode %d: answered %q, %v", m, out, err)
						}
					})
				}
				wg.Wait()
			}
		})
	})
}

// inAllModes sets up one mode after the other and runs them at once: what they
// do is mostly wait.
func inAllModes(t *testing.T, set func(Mode) (run func())) {
	t.Helper()
	var all []func()
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		all = append(all, set(m))
	}
	var wg sync.WaitGroup
	for _, run := range all {
		wg.Go(run)
	}
	wg.Wait()
}

func TestBodyBound(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		r := serve(t, []string{"cat"}, with(func(h *Handler) { h.MaxBody = 100000 }))
		body := func(n int) io.Reader {
			if chunked {
				return struct{ io.Reader }{bytes.NewReader(make([]byte, n))}
			}
			return bytes.NewReader(make([]byte, n))
		}
		r.want(body(100000), 200, string(make([]byte, 100000)))
		if err := r.result(); err != nil {
			t.Fatal(err)
		}
		r.post(body(100001))
		var request *invoke.RequestError
		if err := r.result(); !errors.As(err, &request) || request.Status != 413 {
			t.Errorf("chunked %v: Serve: %v", chunked, err)
		}
	}
}

// The child runs before the client is asked for the body.
func TestContinueOnlyOnceTheChildRuns(t *testing.T) {
	expect := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	t.Run("runs", func(t *testing.T) {
		r := serve(t, []string{"cat"})
		conn, in := r.dial(expect)
		if line, _ := in.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("first line %q", line)
		}
		in.ReadString('\n')
		io.WriteString(conn, "body")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(resp.Body); string(out) != "body" || err != nil {
			t.Errorf("answered %q, %v", out, err)
		}
	})
	t.Run("cannot", func(t *testing.T) {
		_, in := serve(t, []string{"/nonexistent/program"}).dial(expect)
		if line, _ := in.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 500 ") {
			t.Errorf("first line %q", line)
		}
	})
}

func TestHeadHasNoBody(t *testing.T) {
	r := shell(t, "echo text")
	resp, err := r.client.Head(r.URL)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	if err := r.result(); err != nil {
		t.Error(err)
	}
}

// A long stream takes no more memory than a short one.
func TestStreamIsNotHeldInMemory(t *testing.T) {
	const size, most = 64 << 20, 16 << 20
	r := serve(t, []string{"cat"})
	r.want(strings.NewReader("warm"), 200, "warm")
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	resp, err := r.client.Post(r.URL, "", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, part := range []int64{size / 2, size / 2} {
		if n, err := io.CopyN(io.Discard, resp.Body, part); err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		runtime.GC()
		runtime.ReadMemStats(&during)
		if during.HeapInuse > before.HeapInuse+most {
			t.Errorf("heap grew from %d to %d bytes", before.HeapInuse, during.HeapInuse)
		}
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != 0 || err != nil {
		t.Errorf("%d bytes more, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Many at once, ending in every way: nothing is left (leaks in serve).
func TestStorm(t *testing.T) {
	for _, m := range []Mode{Streaming, Serializing, Classic} {
		r := shell(t, `case $Http_X_Do in
			cat) cat;; deaf) exec <&-; echo ok;; fail) exit 7;; late) echo x; exec sleep 600;;
			fork) sleep 600 & echo ok;; esac`, mode(m))
		dos := []string{"cat", "deaf", "fail", "gone", "late", "fork", "cat"}
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for i := range 10 {
					do := dos[(worker+i)%len(dos)]
					ctx, cancel := context.WithCancel(context.Background())
					if do == "gone" {
						do = "late"
						time.AfterFunc(20*time.Millisecond, cancel)
					}
					body := bytes.NewReader(bytes.Repeat([]byte("x"), worker*30000))
					req, _ := http.NewRequestWithContext(ctx, "POST", r.URL, body)
					req.Header.Set("X-Do", do)
					if do == "late" {
						req.Header.Set("X-Limit", "100ms")
					}
					resp, err := r.client.Do(req)
					var out []byte
					if err == nil {
						out, err = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
					if do == "cat" && (err != nil || len(out) != worker*30000) {
						t.Errorf("cat: %d bytes of %d, %v", len(out), worker*30000, err)
					}
					cancel()
				}
			})
		}
		wg.Wait()
	}
}
