package main_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// classic starts fwatchdog-classic with the fork child doing what says.
func classic(t testing.TB, what string, env ...string) *instance {
	t.Helper()
	return startClassic(t, append([]string{"fprocess=" + child(t, "fork") + " " + what}, env...)...)
}

// The contract of classic-watchdog, by the program that is classic by default.
func TestClassic(t *testing.T) {
	t.Run("methods", func(t *testing.T) {
		parallel(t)
		w := classic(t, "cat")
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "GET"} {
			a := w.do(method, "/any/path", "body")
			wantWhole(t, a, nil, "body")
			if !regexp.MustCompile(`^\d+\.\d{6}$`).MatchString(a.Header.Get("X-Duration-Seconds")) {
				t.Errorf("X-Duration-Seconds: %q", a.Header.Get("X-Duration-Seconds"))
			}
		}
		for _, method := range []string{"OPTIONS", "PROPFIND", "HEAD"} {
			wantStatus(t, w.do(method, "/", ""), 405)
		}
		wantWhole(t, w.do("GET", "/", ""), nil, "")
		w.wantLog("Forking fprocess.\n")
		programtest.Eventually(t, "the log says how much was written", func() bool {
			return regexp.MustCompile(`Wrote 4 Bytes - Duration: \d+\.\d+s`).MatchString(w.stderr.String())
		})
		w.stop()
	})
	t.Run("exit", func(t *testing.T) {
		parallel(t)
		a := classic(t, "exit 3 partial").do("POST", "/", "x")
		wantStatus(t, a, 500)
		if a.body != "exit status 3\npartial" {
			t.Errorf("body %q", a.body)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		parallel(t)
		w := classic(t, "grandchild 1h", "exec_timeout=300ms")
		a := w.do("POST", "/", "x")
		wantStatus(t, a, 408)
		if a.body != "Killed process.\n" {
			t.Errorf("body %q", a.body)
		}
		programtest.Eventually(t, "no process is left", func() bool { return len(descendants(w.pid)) == 0 })
	})
	t.Run("stderr merged", func(t *testing.T) {
		parallel(t)
		a := classic(t, "stderr words").do("POST", "/", "x")
		wantWhole(t, a, nil, "words\nout")
	})
	t.Run("stderr apart", func(t *testing.T) {
		parallel(t)
		w := classic(t, "stderr words", "combine_output=false")
		wantWhole(t, w.do("POST", "/", "x"), nil, "out")
		w.wantLog("words")
	})
	t.Run("content type", func(t *testing.T) {
		parallel(t)
		a := classic(t, "cat").do("POST", "/", "x", "Content-Type: application/x-own")
		if got := a.Header.Get("Content-Type"); got != "application/x-own" {
			t.Errorf("Content-Type %q, want the request's", got)
		}
		a = classic(t, "cat", "content_type=text/x-set").do("POST", "/", "x", "Content-Type: application/x-own")
		if got := a.Header.Get("Content-Type"); got != "text/x-set" {
			t.Errorf("Content-Type %q, want the setting", got)
		}
	})
	t.Run("marshal", func(t *testing.T) {
		parallel(t)
		a := classic(t, "cat", "marshal_request=true").do("POST", "/", "raw body", "X-A: b")
		var got struct {
			Header map[string][]string `json:"header"`
			Body   struct {
				Raw string `json:"raw"`
			} `json:"body"`
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatalf("stdin is %q: %v", a.body, err)
		}
		raw, _ := base64.StdEncoding.DecodeString(got.Body.Raw)
		if string(raw) != "raw body" || !slices.Equal(got.Header["X-A"], []string{"b"}) {
			t.Errorf("stdin is %q", a.body)
		}
	})
	t.Run("environment", func(t *testing.T) {
		parallel(t)
		w := classic(t, "env")
		env := strings.Split(w.do("POST", "/p%20q?a=1", "body", "X-Some-Thing: v", "Host: func.example", "Proxy: http://evil.example").body, "\n")
		for _, want := range []string{"Http_Method=POST", "Http_Path=/p q", "Http_Query=a=1", "Http_X_Some_Thing=v", "Http_Host=func.example",
			"Http_ContentLength=4", "Http_Content_Length=4"} {
			if !slices.Contains(env, want) {
				t.Errorf("no %q in\n%s", want, strings.Join(env, "\n"))
			}
		}
		if slices.ContainsFunc(env, func(e string) bool { return strings.Contains(e, "evil.example") }) {
			t.Error("a Proxy header became a variable")
		}
		chunked := w.parse(w.raw("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n"))
		for _, want := range []string{"Http_ContentLength=-1", "Http_Content_Length=-1"} {
			if !strings.Contains(chunked.body, want+"\n") {
				t.Errorf("no %q in\n%s", want, chunked.body)
			}
		}
	})
	t.Run("debug", func(t *testing.T) {
		parallel(t)
		w := classic(t, "cat", "write_debug=true", "debug_headers=true")
		wantWhole(t, w.do("POST", "/", "seen-in-the-log", "X-Shown: yes"), nil, "seen-in-the-log")
		w.wantLog("X-Shown=[yes]")
	})
	t.Run("ready and lock", func(t *testing.T) {
		parallel(t)
		w := classic(t, "cat", "max_inflight=5")
		a := w.do("GET", "/_/ready", "")
		if a.StatusCode != 200 || a.Header.Get("X-Watchdog-Max-Inflight") != "5" {
			t.Errorf("ready %d %q; /_/ready is the watchdog's", a.StatusCode, a.Header.Get("X-Watchdog-Max-Inflight"))
		}
		if _, err := os.Stat(w.lock()); err != nil {
			t.Errorf("lock file: %v", err)
		}
		w.stop()
	})
	t.Run("early close of stdin", func(t *testing.T) {
		parallel(t)
		wantWhole(t, classic(t, "deaf").do("POST", "/", strings.Repeat("b", 1<<20)), nil, "ok")
	})
	t.Run("client gone", func(t *testing.T) {
		parallel(t)
		w := classic(t, "grandchild 1h")
		p := w.background("POST", "/", "x")
		programtest.Eventually(t, "the fork and its child run", func() bool { return len(descendants(w.pid)) == 2 })
		p.cancel()
		programtest.Eventually(t, "no process is left", func() bool { return len(descendants(w.pid)) == 0 })
	})
	t.Run("mode of the other program", func(t *testing.T) {
		parallel(t)
		w := start(t, "mode=classic", "fprocess="+child(t, "fork")+" exit 3 partial")
		if a := w.do("POST", "/", "x"); a.StatusCode != 500 || a.body != "exit status 3\npartial" {
			t.Errorf("%d %q", a.StatusCode, a.body)
		}
	})
}

// static serves files and nothing outside its folder.
func TestStatic(t *testing.T) {
	parallel(t)
	parent := t.TempDir()
	public := filepath.Join(parent, "public")
	if err := os.Mkdir(public, 0o755); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	writeFile(t, filepath.Join(public, "index.html"), "<h1>home</h1>")
	writeFile(t, filepath.Join(public, "big.bin"), big)
	writeFile(t, filepath.Join(parent, "secret"), "not yours")
	w := start(t, "mode=static", "static_path="+public)
	wantWhole(t, w.do("GET", "/", ""), nil, "<h1>home</h1>")
	wantWhole(t, w.do("GET", "/big.bin", ""), nil, big)
	if a := w.do("GET", "/big.bin", "", "Range: bytes=2-5"); a.StatusCode != 206 || a.body != "2345" {
		t.Errorf("range: %d %q", a.StatusCode, a.body)
	}
	if a := w.do("HEAD", "/big.bin", ""); a.StatusCode != 200 || a.ContentLength != int64(len(big)) {
		t.Errorf("HEAD: %d, length %d", a.StatusCode, a.ContentLength)
	}
	wantStatus(t, w.do("GET", "/nothing", ""), 404)
	for _, path := range []string{"/../secret", "/%2e%2e/secret", "/..%2fsecret", "//../secret", "/x/../../secret"} {
		if raw := w.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); strings.Contains(raw, "not yours") {
			t.Errorf("%s leaves the folder", path)
		}
	}
	w.signal(syscall.SIGTERM)
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
