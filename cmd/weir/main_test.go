package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a condition. It is long because the machine
// may be busy with other packages; no test passes by waiting for it.
const patience = 90 * time.Second

// handlerMark in the environment makes the test binary a function's handler.
const handlerMark = "WEIR_TEST_HANDLER"

func TestMain(m *testing.M) {
	if os.Getenv(handlerMark) != "" {
		handle()
	}
	dir, err := os.MkdirTemp("", "weir-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// programs is where what is built goes.
var programs string

var building sync.Mutex

// build compiles a package of the repository once.
func build(t testing.TB, name, pkg string, flags ...string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(programs, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", slices.Concat([]string{"build"}, flags, []string{"-o", path, pkg})...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// weirProgram is in a folder of its own: a fwatchdog beside it would be found.
func weirProgram(t testing.TB) string {
	var flags []string
	if raceDetector {
		flags = append(flags, "-race")
	}
	return build(t, "weir/weir", ".", flags...)
}

func fwatchdog(t testing.TB) string {
	return build(t, "fwatchdog", "../..", "-trimpath", "-tags", "nethttpomithttp2")
}

// record is what a process writes.
type record struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

// program is a weir that runs.
type program struct {
	t       testing.TB
	cmd     *exec.Cmd
	dir     string // everything that it and its replicas have is below
	url     string // of the API, without a last slash
	addr    string
	metrics string
	log     record
	exited  chan struct{}
	err     error // of its end; read after exited
}

// environment is all that a weir of the tests is told beside env.
func environment(dir string, env ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), "GORACE=halt_on_error=1 atexit_sleep_ms=0",
		"WEIR_LISTEN=127.0.0.1:0", "WEIR_METRICS_LISTEN=127.0.0.1:0",
	}, env...)
}

// command is a weir that was not started yet.
func command(t testing.TB, env ...string) *program {
	t.Helper()
	p := &program{t: t, dir: t.TempDir(), exited: make(chan struct{})}
	if err := os.Mkdir(filepath.Join(p.dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(weirProgram(t))
	p.cmd.Dir = p.dir
	p.cmd.Env = environment(p.dir, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	return p
}

// launch starts it. When the test ends it is told to stop, and must leave
// nothing behind.
func (p *program) launch() *program {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	p.t.Cleanup(p.finish)
	return p
}

var serves = regexp.MustCompile(`msg="weir serves" .* listen=(\S+) metrics=(\S+)`)

// serving waits until it listens.
func (p *program) serving() *program {
	p.t.Helper()
	p.until("it listens", func() bool {
		found := serves.FindStringSubmatch(p.log.String())
		if found != nil {
			p.addr, p.url, p.metrics = found[1], "http://"+found[1], "http://"+found[2]
		}
		return found != nil
	})
	return p
}

// local starts weir with a stack, and waits until it knows its functions.
func local(t testing.TB, stack string, env ...string) *program {
	t.Helper()
	p := command(t, append([]string{"WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG=" + fwatchdog(t)}, env...)...)
	p.write("stack.yaml", stack)
	p.launch().serving()
	p.until("its functions are known", func() bool { return p.get("/healthz").StatusCode == http.StatusOK })
	return p
}

func (p *program) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// until waits for a condition, which may no longer come about once weir ended.
func (p *program) until(what string, condition func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		select {
		case <-p.exited:
			if condition() {
				return
			}
			p.t.Fatalf("weir ended (%v) before %s", p.err, what)
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("in vain: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// wait is for its end; it returns the exit code, negative for a signal's.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("weir does not end")
		return 0
	}
}

func (p *program) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) finish() {
	t := p.t
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(patience):
			t.Error("weir does not end at its second signal")
			_ = p.cmd.Process.Kill()
		}
	}
	p.gone()
	if strings.Contains(p.log.String(), "DATA RACE") || strings.Contains(p.log.String(), "panic:") {
		t.Error("a race or a panic is in the log")
	}
	if t.Failed() {
		text := p.log.String()
		t.Logf("weir's log, at most the last 20000 bytes:\n%s", text[max(0, len(text)-20000):])
	}
}

// gone checks that no process is left that this weir started, and that its
// folders are removed.
func (p *program) gone() {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := p.processes("")
		folders, _ := filepath.Glob(filepath.Join(p.dir, "tmp", "*"))
		if len(left) == 0 && len(folders) == 0 {
			return
		}
		if time.Now().After(deadline) {
			p.t.Errorf("left behind: processes %v, folders %v", left, folders)
			for pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// processes are those of this weir, by number, weir itself among them: they
// have its folder in their environment or command line. Of them, those whose
// program or environment has the word.
func (p *program) processes(word string) map[int]string {
	found := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		environ, _ := os.ReadFile(dir + "/environ")
		line, _ := os.ReadFile(dir + "/cmdline")
		exe, _ := os.Readlink(dir + "/exe")
		said := append(append(environ, line...), exe...)
		if len(line) > 0 && bytes.Contains(said, []byte(p.dir+"/")) && bytes.Contains(said, []byte(word)) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// answer is one that was read to its end.
type answer struct {
	*http.Response
	text string
}

// client keeps no connection: weir's own tests count them.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: patience}).DialContext},
	Timeout:       patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// do sends a request; headers are "Name: value".
func (p *program) do(method, path string, body io.Reader, headers ...string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, p.url+path, body)
	if err != nil {
		return answer{}, err
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return answer{response, string(text)}, err
}

func (p *program) get(path string, headers ...string) answer {
	p.t.Helper()
	a, err := p.do(http.MethodGet, path, nil, headers...)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// check is about the status of an answer, and what its text has.
func (a answer) check(t testing.TB, status int, words ...string) {
	t.Helper()
	if a.Response == nil {
		t.Fatal("no answer")
	}
	if a.StatusCode != status {
		t.Errorf("%s: %s %q, want %d", a.Request.URL, a.Status, a.text, status)
	}
	for _, word := range words {
		if !strings.Contains(a.text, word) {
			t.Errorf("%s: %q, want %q in it", a.Request.URL, a.text, word)
		}
	}
}

// raw sends bytes over a connection of their own and returns all that comes
// back; half closes the sending side first.
func (p *program) raw(half bool, text string) string {
	p.t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		p.t.Fatal(err)
	}
	if half {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	back, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		p.t.Errorf("%.80q: %v", text, err)
	}
	return string(back)
}

// metric is the value of a series as the metrics page spells it, 0 without.
func (p *program) metric(series string) float64 {
	p.t.Helper()
	response, err := client.Get(p.metrics + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return value
		}
	}
	return 0
}
