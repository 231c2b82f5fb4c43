package main_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// readmeCommands are the lines of README.md's first try that have a curl.
func readmeCommands(t *testing.T) (commands []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "## Try it on this machine")
	section, _, _ := strings.Cut(after, "\n## ")
	for line := range strings.Lines(section) {
		if strings.Contains(line, "curl ") {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

// TestReadme does what a newcomer does, from zero and back to zero.
func TestReadme(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl")
	}
	text, err := os.ReadFile("../../testdata/stack.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shorter := strings.NewReplacer("zero-duration: 20s", "zero-duration: 3s", "zero-duration: 1m", "zero-duration: 4s")
	p := command(t, "WEIR_PROVIDER=local", "WEIR_STACK=testdata/stack.yaml", "WEIR_DATA_DIR=data", "WEIR_FWATCHDOG="+programtest.BuildFwatchdog(t))
	p.Write("testdata/stack.yaml", shorter.Replace(string(text)))
	for _, name := range []string{"hello", "wc", "slow"} {
		built := programtest.Build(t, "testdata/functions/"+name)
		if err := os.MkdirAll(filepath.Join(p.Dir, "bin/functions"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(built, filepath.Join(p.Dir, "bin/functions", name)); err != nil {
			t.Fatal(err)
		}
	}
	p.Launch().Serving()
	p.Until("its functions are known", func() bool { return p.get("/healthz").StatusCode == http.StatusOK })
	p.get("/status-function/hello").check(t, http.StatusOK, `{"NumberReady":0,"numberRequested":0}`)
	if left := p.Processes("bin/functions"); len(left) > 0 {
		t.Errorf("running before the first call: %v", left)
	}

	want := []string{"HTTP/1.1 200 OK", "1       3      14", "2s later, from process ", `"Name":"slow"`, `"why":"`,
		"HTTP/1.1 202 Accepted", `"state":"`, `{"deadLetters":[]}`}
	commands := readmeCommands(t)
	if len(commands) != len(want) {
		t.Fatalf("README has %q, and the test knows of %d", commands, len(want))
	}
	called := "/async-call/ID"
	for i, line := range commands {
		line, _, _ = strings.Cut(line, " # ")
		line = strings.ReplaceAll(line, "/async-call/ID", called)
		out, err := exec.Command("bash", "-c", strings.ReplaceAll(line, "localhost:8080", p.Addr)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want[i]) {
			t.Errorf("%s: %v, %q, want %q in it", line, err, out, want[i])
		}
		if at := regexp.MustCompile(`(?m)^Location: (/async-call/[a-z0-9-]+)\r?$`).FindSubmatch(out); at != nil {
			called = string(at[1])
		}
		if n := strings.Count(string(out), want[2]); i == 2 && n != 40 {
			t.Errorf("%d of 40 calls were answered: %q", n, out)
		}
	}
	if !regexp.MustCompile(`msg=scaled function=slow\.default from=\d+ to=([3-9]|10) `).MatchString(p.Log.String()) {
		t.Error("40 calls at once, four to a replica, brought no more than two replicas")
	}
	p.Until("all is back at zero", func() bool {
		return strings.Count(p.get("/status-functions").text, `"numberRequested":0`) == 3 && len(p.Processes("bin/functions")) == 0
	})
	// The reason of the last look, which comes within a second of the change.
	p.Until("it is said to be asleep", func() bool { return strings.Contains(p.get("/system/function/slow").text, `"why":"asleep`) })
	p.get("/system/function/slow").check(t, http.StatusOK, `"to":0,"reason":"idle"`)
}

// TestBurstFromZero: 300 calls at once to a sleeping function are all answered
// after one wake.
func TestBurstFromZero(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, asleep))
	small, large := []byte("hello"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	p.get("/status-function/echo").check(t, http.StatusOK, `{"NumberReady":0,"numberRequested":0}`)
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			body := small
			if i%2 == 1 {
				body = large
			}
			path := fmt.Sprintf("/call/%d?q=%%2f", i)
			a, err := p.do(http.MethodPost, "/function/echo"+path, bytes.NewReader(body))
			want := fmt.Sprintf("POST %s %d %x\n", path, len(body), sha256.Sum256(body))
			if err != nil || a.StatusCode != http.StatusOK || a.text != want {
				t.Errorf("%d: %v, %q, want %q", i, err, a.text, want)
			}
		})
	}
	all.Wait()
	if n := strings.Count(p.Log.String(), `msg=woken function=echo.default`); n != 1 {
		t.Errorf("%d wakes are in the log, want 1", n)
	}
	if n := p.metric(`weir_wakes_total{function_name="echo.default",result="done"}`); n != 1 {
		t.Errorf("%v wakes were counted, want 1", n)
	}
	if n := p.metric(`gateway_function_invocation_total{code="200",function_name="echo.default"}`); n != 300 {
		t.Errorf("%v calls were counted, want 300", n)
	}
}

// TestKinds: what passes through weir besides plain calls.
func TestKinds(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "elsewhere %s", r.RequestURI)
	}))
	defer elsewhere.Close()
	stack := "functions:\n" + function(t, "echo", nil, asleep) +
		"  far:\n    url: " + elsewhere.URL + "\n" +
		"  cat:\n    fprocess: cat\n    environment:\n      mode: streaming\n    annotations:\n      weir/zero: \"true\"\n"
	p := local(t, stack)

	t.Run("a server of events", func(t *testing.T) { events(t, p) })
	t.Run("an upgraded connection", func(t *testing.T) { upgraded(t, p) })
	t.Run("a function elsewhere", func(t *testing.T) {
		p.get("/function/far/a/b?c=d").check(t, http.StatusOK, "elsewhere /a/b?c=d")
		p.get("/status-function/far").check(t, http.StatusOK, `"NumberReady":1`)
	})
	t.Run("by its host", func(t *testing.T) {
		for _, host := range []string{"echo.default", "ECHO.default:8080"} {
			p.get("/system/info?x", "Host: "+host).check(t, http.StatusOK, "GET /system/info?x 0 ")
		}
		p.get("/a", "Host: echo.elsewhere").check(t, http.StatusNotFound)
		p.get("/a", "Host: echo").check(t, http.StatusNotFound)
		p.get("/function/echo.default/a").check(t, http.StatusOK, "GET /a 0 ")
	})
	t.Run("X-Call-Id", func(t *testing.T) {
		if id := p.get("/function/echo", "X-Call-Id: mine.1_2-3").Header.Get("X-Call-Id"); id != "mine.1_2-3" {
			t.Errorf("the caller's own came back as %q", id)
		}
		if id := p.get("/function/echo").Header.Get("X-Call-Id"); len(id) != 36 {
			t.Errorf("weir's own is %q", id)
		}
		p.get("/function/echo", "X-Call-Id: a b").check(t, http.StatusBadRequest, "X-Call-Id is to be")
	})
	t.Run("parts and heads", func(t *testing.T) {
		a := p.get("/function/echo/range", "Range: bytes=5-14")
		a.check(t, http.StatusPartialContent)
		if a.text != "5678901234" || a.Header.Get("Content-Range") != "bytes 5-14/10000" {
			t.Errorf("%q of %q", a.text, a.Header.Get("Content-Range"))
		}
		a, err := p.do(http.MethodHead, "/function/echo/range", nil)
		if err != nil || a.ContentLength != 10000 || a.text != "" {
			t.Errorf("HEAD: %v, length %d, body %q", err, a.ContentLength, a.text)
		}
	})
	t.Run("100 MB in chunks", func(t *testing.T) { streamed(t, p, 100<<20) })
}

func events(t *testing.T, p *program) {
	response, err := client.Get(p.URL + "/function/echo/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewReader(response.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
			t.Fatalf("%q, %v, want %q", line, err, want)
		}
		_, _ = lines.ReadString('\n')
		// The handler writes the next event only now.
		p.get("/function/echo/next").check(t, http.StatusOK)
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("after the last event: %q, %v", rest, err)
	}
}

func upgraded(t *testing.T, p *program) {
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(programtest.Patience))
	fmt.Fprintf(c, "GET /function/echo/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	back := bufio.NewReader(c)
	response, err := http.ReadResponse(back, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v, %v", response, err)
	}
	for _, word := range []string{"one", "two"} {
		fmt.Fprintf(c, "%s\n", word)
		if line, err := back.ReadString('\n'); err != nil || line != "you said "+word+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if n := p.metric(`gateway_function_invocation_inflight{function_name="echo.default"}`); n != 1 {
		t.Errorf("%v calls in flight, want 1: an open conversation is a call", n)
	}
}

var nothing [64 << 10]byte

// zeros are so many bytes, without a length.
type zeros struct{ left int }

func (z *zeros) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), z.left, len(nothing))
	z.left -= n
	copy(b[:n], nothing[:])
	return n, nil
}

func streamed(t *testing.T, p *program, size int) {
	r, _ := http.NewRequest(http.MethodPost, p.URL+"/function/cat", &zeros{size})
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	n, err := io.Copy(io.Discard, response.Body)
	if err != nil || n != int64(size) || response.StatusCode != http.StatusOK {
		t.Errorf("%s, %d bytes came back of %d: %v", response.Status, n, size, err)
	}
	if rss := p.memory(); rss > 200<<20 && !programtest.Race {
		t.Errorf("weir takes %d MiB", rss>>20)
	}
}

// memory is what weir itself has resident.
func (p *program) memory() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	for line := range strings.Lines(string(text)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

// TestProtected: who may use the protected routes.
func TestProtected(t *testing.T) {
	t.Parallel()
	t.Run("without a password", func(t *testing.T) {
		p := local(t, "functions:\n"+function(t, "echo", nil, asleep))
		p.get("/system/functions").check(t, http.StatusOK, `"name":"echo"`)
		p.get("/system/info").check(t, http.StatusOK, `"orchestration":"local"`)
		for _, header := range []string{"X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Via: 1.1 x", "Host: weir.example"} {
			for _, path := range []string{"/system/functions", "/system/function/echo", "/system/nothing"} {
				a := p.get(path, header)
				a.check(t, http.StatusUnauthorized, "WEIR_BASIC_AUTH_PASSWORD")
				if a.Header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s: no WWW-Authenticate", path)
				}
			}
			p.get("/function/echo", header).check(t, http.StatusOK)
		}
		a, err := p.do(http.MethodPost, "/system/scale-function/echo", strings.NewReader(`{"replicas":2}`), "Origin: http://evil.example")
		if err != nil {
			t.Fatal(err)
		}
		a.check(t, http.StatusUnauthorized, "another origin")
		for _, path := range []string{"/system/functions", "/system/secrets"} {
			a, err := p.do(http.MethodPost, path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			a.check(t, http.StatusNotImplemented, "apply a manifest")
		}
	})
	t.Run("with a password's file", func(t *testing.T) {
		secret := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(secret, []byte("open sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := local(t, "functions:\n"+function(t, "echo", nil, asleep), "WEIR_BASIC_AUTH_PASSWORD_FILE="+secret, "WEIR_BASIC_AUTH_USER=ali")
		p.get("/system/functions").check(t, http.StatusUnauthorized, "WEIR_BASIC_AUTH_PASSWORD")
		p.get("/healthz").check(t, http.StatusOK)
		for password, status := range map[string]int{"open sesame": http.StatusOK, "open sesame\n": http.StatusUnauthorized, "": http.StatusUnauthorized} {
			r, _ := http.NewRequest(http.MethodGet, p.URL+"/system/functions", nil)
			r.SetBasicAuth("ali", password)
			response, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != status {
				t.Errorf("password %q: %s, want %d", password, response.Status, status)
			}
		}
		if strings.Contains(p.Log.String(), "sesame") {
			t.Error("the password is in the log")
		}
	})
}

// TestBounds: what is beyond a bound is said to be.
func TestBounds(t *testing.T) {
	t.Parallel()
	one := function(t, "one", []string{"max_inflight: 1"}, []string{"weir/max: \"1\""})
	p := local(t, "functions:\n"+one, "WEIR_MAX_BODY=1Ki", "WEIR_HOLD_REQUESTS=1", "WEIR_HOLD_TIMEOUT=2s")
	p.get("/function/one").check(t, http.StatusOK)
	for name, body := range map[string]io.Reader{"with a length": bytes.NewReader(make([]byte, 1025)), "in chunks": &zeros{1025}} {
		a, err := p.do(http.MethodPost, "/function/one", body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		a.check(t, http.StatusRequestEntityTooLarge, "1024")
	}
	var all sync.WaitGroup
	answers := make([]answer, 3)
	for i := range answers {
		all.Go(func() { answers[i], _ = p.do(http.MethodGet, "/function/one?ms=6000", nil) })
	}
	all.Wait()
	// One runs, one waits in vain, one may not even wait.
	statuses := []int{}
	for _, a := range answers {
		if a.Response == nil {
			t.Fatal("a call was not answered")
		}
		statuses = append(statuses, a.StatusCode)
		if a.StatusCode == http.StatusServiceUnavailable {
			if a.Header.Get("Retry-After") == "" || !strings.Contains(a.text, "one.default") {
				t.Errorf("%v %q", a.Header, a.text)
			}
		}
	}
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{200, 503, 503}) {
		t.Errorf("%v, want one answer and two refusals", statuses)
	}
	if n := p.metric(`weir_refusals_total{function_name="one.default",reason="hold_requests"}`); n != 1 {
		t.Errorf("%v refusals of a full line, want 1", n)
	}
	if n := p.metric(`weir_refusals_total{function_name="one.default",reason="full"}`); n != 1 {
		t.Errorf("%v refusals of calls that waited in vain, want 1", n)
	}
}
