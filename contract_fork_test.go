package main_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// Streaming hid every failure behind a 200.
func TestStreamingTellsOfFailure(t *testing.T) {
	parallel(t)
	t.Run("exit", func(t *testing.T) {
		parallel(t)
		wantOwn(t, startFork(t, "streaming", "exit 3").do("POST", "/", "x"), 500)
	})
	t.Run("signal", func(t *testing.T) {
		parallel(t)
		wantOwn(t, startFork(t, "streaming", "raise").do("POST", "/", "x"), 500)
	})
	t.Run("cannot start", func(t *testing.T) {
		parallel(t)
		w := launch(t, fwatchdog(t), "mode=streaming", "fprocess=/no/such/program")
		w.waitHealthy()
		wantOwn(t, w.do("POST", "/", "x"), 500)
	})
	t.Run("timeout", func(t *testing.T) {
		parallel(t)
		wantOwn(t, startFork(t, "streaming", "sleep 1h", "exec_timeout=200ms").do("POST", "/", "x"), 504)
	})
	t.Run("no output", func(t *testing.T) {
		parallel(t)
		a := startFork(t, "streaming", "exit 0").do("POST", "/", "x")
		wantWhole(t, a, nil, "")
	})
}

// A fork that failed after it wrote was answered with a complete-looking 200.
func TestCutStreamIsSeenAsCut(t *testing.T) {
	parallel(t)
	t.Run("exit", func(t *testing.T) {
		parallel(t)
		a, err := startFork(t, "streaming", "exit 3 half").try("POST", "/", "x")
		wantCut(t, a, err)
	})
	t.Run("timeout", func(t *testing.T) {
		parallel(t)
		a, err := startFork(t, "streaming", "sleep 1h half", "exec_timeout=300ms").tryBegun("POST", "/", "x")
		wantCut(t, a, err)
	})
}

// exec_timeout killed the child only; a grandchild that held the pipe kept the
// request from ending.
func TestExecTimeoutEndsTheWholeGroup(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "grandchild 1h", "exec_timeout=300ms")
			wantOwn(t, w.do("GET", "/", ""), 504)
			programtest.Eventually(t, "no process is left", func() bool { return len(descendants(w.pid)) == 0 })
		})
	}
}

// A descendant that left the group and holds the pipe kept the request from
// ending.
func TestOrphanCannotHoldTheRequest(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "orphan 1h")
			wantWhole(t, w.do("GET", "/", ""), nil, "done")
		})
	}
}

// A fork went on when its client had left.
func TestForkEndsWithItsClient(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "grandchild 1h", "exec_timeout=1h")
			p := w.background("GET", "/left", "")
			programtest.Eventually(t, "the fork and its child run", func() bool { return len(descendants(w.pid)) == 2 })
			p.cancel()
			programtest.Eventually(t, "no process is left", func() bool { return len(descendants(w.pid)) == 0 })
			w.wantLog(" 499 ")
		})
	}
}

// In http mode the handler is told when the client left.
func TestHandlerLearnsThatItsClientLeft(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "exec_timeout=1h")
	p := w.background("GET", "/hang", "", "X-Id: leaver")
	programtest.Eventually(t, "the handler has the request", func() bool { return w.saw("leaver") })
	p.cancel()
	programtest.Eventually(t, "the handler is told", func() bool { return w.saw("gone") })
	w.wantLog(" 499 ")
}

// A child that closes stdin early got a 500 and left a zombie and a goroutine
// behind per request.
func TestEarlyCloseOfStdinLeaksNothing(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "deaf")
			body := strings.Repeat("b", 1<<20)
			wantWhole(t, w.do("POST", "/", body), nil, "ok")
			before := w.usage()
			for range 25 {
				wantWhole(t, w.do("POST", "/", body), nil, "ok")
			}
			w.wantNoLeak(before)
		})
	}
}

// A line longer than the buffer made the function hang.
func TestLongLogLineDoesNotHang(t *testing.T) {
	const long = 300_000
	count := func(w *instance) int {
		return w.stderr.exes() + w.stdout.exes()
	}
	for _, to := range []string{"stderr", "stdout"} {
		for _, size := range []string{"", "1000", "-1"} {
			t.Run(to+" "+size, func(t *testing.T) {
				parallel(t)
				w := startMisbehaving(t, "log_buffer_size="+size)
				before := count(w.instance)
				for range 2 {
					wantWhole(t, w.do("GET", "/log?to="+to+"&n="+strconv.Itoa(long), ""), nil, "logged")
				}
				programtest.Eventually(t, "every byte of the lines is in the log", func() bool {
					// Paths, dates and access lines hold no more than a few.
					got := count(w.instance) - before
					return got >= 2*long && got < 2*long+100
				})
			})
		}
	}
	t.Run("fork", func(t *testing.T) {
		parallel(t)
		w := startFork(t, "streaming", "line "+strconv.Itoa(long))
		wantWhole(t, w.do("GET", "/", ""), nil, "logged")
		programtest.Eventually(t, "every byte of the line is in the log", func() bool { return count(w) >= long })
	})
}

// Python's urllib and others take Http_Proxy for a setting: a request's Proxy
// header must not become one.
func TestProxyHeaderBecomesNoVariable(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "env")
			for _, name := range []string{"Proxy", "proxy", "PROXY"} {
				a := w.do("GET", "/", "", name+": http://evil.example")
				wantStatus(t, a, 200)
				if strings.Contains(a.body, "evil.example") {
					t.Errorf("%s: the handler's environment has it:\n%s", name, a.body)
				}
			}
		})
	}
}

// What a fork is told of the request.
func TestForkEnvironment(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "env", "my_own=kept")
			a := w.do("PUT", "/a%20b/c?q=1&r=%20", "body", "X-Some-Thing: v", "X-Some-Thing: second", "Content-Type: text/x")
			wantStatus(t, a, 200)
			env := strings.Split(a.body, "\n")
			for _, want := range []string{
				"my_own=kept", "Http_Method=PUT", "Http_Path=/a b/c", "Http_Query=q=1&r=%20", "Http_X_Some_Thing=v", "Http_Content_Type=text/x",
			} {
				if !slices.Contains(env, want) {
					t.Errorf("no %q in\n%s", want, a.body)
				}
			}
			if got := a.Header.Get("Content-Type"); got != "application/octet-stream" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		parallel(t)
		a := startFork(t, "streaming", "env", "cgi_headers=false").do("GET", "/", "", "X-A: b")
		if strings.Contains(a.body, "Http_") {
			t.Errorf("cgi_headers=false, yet\n%s", a.body)
		}
	})
	t.Run("content_type", func(t *testing.T) {
		parallel(t)
		a := startFork(t, "streaming", "env", "content_type=text/x-own").do("GET", "/", "")
		if got := a.Header.Get("Content-Type"); got != "text/x-own" {
			t.Errorf("Content-Type %q, want text/x-own", got)
		}
	})
}

// The command is split as a shell splits it.
func TestCommandIsSplitAsAShellDoes(t *testing.T) {
	parallel(t)
	w := startFork(t, "serializing", `args  one   "two  words" three\ 3 '' $HOME *`)
	wantWhole(t, w.do("GET", "/", ""), nil, "one|two  words|three 3||$HOME|*")
}

// function_process wins over fprocess.
func TestSecondNameOfTheCommandWins(t *testing.T) {
	parallel(t)
	w := startFork(t, "serializing", "exit 9", "function_process="+child(t, "fork")+" cat")
	wantWhole(t, w.do("POST", "/", "through"), nil, "through")
}

// Bodies of every size go through a fork whole, both ways.
func TestForkBodies(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "cat")
			for _, n := range []int{0, 1, 4095, 64 << 10, 65<<10 + 1, 3 << 20} {
				body := strings.Repeat("0123456789abcdef", n/16+1)[:n]
				a, err := w.try("POST", "/", body)
				wantWhole(t, a, err, body)
				if mode == "serializing" && a.Header.Get("X-Duration-Seconds") == "" {
					t.Error("no X-Duration-Seconds")
				}
			}
		})
	}
}

// serializing: a failure is a 500 that says how the process ended.
func TestSerializingSaysTheExitStatus(t *testing.T) {
	parallel(t)
	w := startFork(t, "serializing", "exit 3 partial")
	a := w.do("POST", "/", "x")
	wantStatus(t, a, 500)
	if strings.TrimSpace(a.body) != "exit status 3" {
		t.Errorf("body %q, want exit status 3", a.body)
	}
}

// What a fork writes to stderr is in the log, prefixed or as it is.
func TestHandlerLinesInTheLog(t *testing.T) {
	parallel(t)
	t.Run("prefixed", func(t *testing.T) {
		parallel(t)
		w := startFork(t, "streaming", "stderr words")
		wantWhole(t, w.do("GET", "/", ""), nil, "out")
		w.wantLog(" stderr: words\n")
	})
	t.Run("bare", func(t *testing.T) {
		parallel(t)
		w := startFork(t, "streaming", "stderr words", "prefix_logs=false")
		wantWhole(t, w.do("GET", "/", ""), nil, "out")
		w.wantLog("\nwords\n")
	})
	t.Run("http", func(t *testing.T) {
		parallel(t)
		w := startHTTP(t, "sh "+writeScript(t, "echo to stdout; echo to stderr >&2; exec "+child(t, "http")))
		w.wantLog(" stdout: to stdout\n")
		w.wantLog(" stderr: to stderr\n")
	})
}

// writeScript is the path of a file with this text.
func writeScript(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	writeFile(t, file, text)
	return file
}
