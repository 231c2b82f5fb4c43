package programtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Weir is a weir, which may run, end, and run again on the same folder.
type Weir struct {
	// Program is that of the last Launch.
	*Program
	// Dir is its working folder: everything that it and its replicas have is
	// below.
	Dir string
	// Binary is the program, the built weir where it is empty.
	Binary string
	// Args are for its command line, Env is all of its environment.
	Args, Env []string
	// Addr is where the API listens; URL has no last slash, MetricsURL is the
	// page's. They are known once it serves.
	Addr, URL, MetricsURL string

	t testing.TB
}

// NewWeir is a weir that does not run yet. Env is what it is told beside
// PATH, HOME, TMPDIR and to listen on free ports of this host.
func NewWeir(t testing.TB, env ...string) *Weir {
	t.Helper()
	w := &Weir{t: t, Dir: t.TempDir()}
	temp := filepath.Join(w.Dir, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	w.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.Dir, "TMPDIR=" + temp, "GORACE=halt_on_error=1 atexit_sleep_ms=0",
		"WEIR_LISTEN=127.0.0.1:0", "WEIR_METRICS_LISTEN=127.0.0.1:0",
	}, env...)
	return w
}

// NewLocalWeir is a NewWeir that runs the functions of a stack as processes.
func NewLocalWeir(t testing.TB, stack string, env ...string) *Weir {
	t.Helper()
	w := NewWeir(t, append([]string{"WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG=" + BuildFwatchdog(t)}, env...)...)
	w.Write("stack.yaml", stack)
	return w
}

// Write writes a file below its folder.
func (w *Weir) Write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// Launch starts it, again if it has ended. When the test ends it is told to
// stop, and must leave nothing behind.
func (w *Weir) Launch() *Weir {
	w.t.Helper()
	binary := w.Binary
	if binary == "" {
		binary = BuildWeir(w.t)
	}
	cmd := exec.Command(binary, w.Args...)
	cmd.Dir, cmd.Env = w.Dir, w.Env
	w.Program = Start(w.t, cmd)
	program := w.Program
	w.t.Cleanup(func() { w.finish(program) })
	return w
}

var serves = regexp.MustCompile(`msg="weir serves" .* listen=(\S+) metrics=(\S+)`)

// Serves says whether it listens, and notes where.
func (w *Weir) Serves() bool {
	found := serves.FindStringSubmatch(w.Log.String())
	if found != nil {
		w.Addr, w.URL, w.MetricsURL = found[1], "http://"+found[1], "http://"+found[2]+"/metrics"
	}
	return found != nil
}

// Serving waits until it listens.
func (w *Weir) Serving() *Weir {
	w.t.Helper()
	w.Until("it listens", w.Serves)
	return w
}

// Ready waits until it knows its functions.
func (w *Weir) Ready() *Weir {
	w.t.Helper()
	w.Serving().Until("its functions are known", func() bool { return answers(w.URL + "/healthz") })
	return w
}

// Until waits for a condition, which may no longer come about once weir ended.
func (w *Weir) Until(what string, condition func() bool) {
	w.t.Helper()
	Eventually(w.t, what, func() bool {
		over := w.Over()
		met := condition()
		if over && !met {
			w.t.Fatalf("weir ended with %d before %s", w.Code(), what)
		}
		return met
	})
}

func (w *Weir) finish(p *Program) {
	if !p.Over() {
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Process.Signal(syscall.SIGTERM)
		p.Wait()
	}
	w.Gone()
	if said := p.Log.String(); strings.Contains(said, "DATA RACE") || strings.Contains(said, "panic:") {
		w.t.Error("a race or a panic is in the log")
	}
}

// Gone waits until no process is left that this weir started, and its temporary
// folders are removed.
func (w *Weir) Gone() {
	w.t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		left := w.Processes("")
		folders, _ := filepath.Glob(filepath.Join(w.Dir, "tmp", "*"))
		if len(left) == 0 && len(folders) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("left behind: processes %v, folders %v", left, folders)
			for pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
}

// Processes are those of this weir, by number, weir itself among them: they
// have its folder in their environment or command line. Of them, those whose
// program, command line or environment has the word.
func (w *Weir) Processes(word string) map[int]string {
	found := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		environ, _ := os.ReadFile(dir + "/environ")
		line, _ := os.ReadFile(dir + "/cmdline")
		exe, _ := os.Readlink(dir + "/exe")
		said := append(append(environ, line...), exe...)
		if len(line) > 0 && bytes.Contains(said, []byte(w.Dir+"/")) && bytes.Contains(said, []byte(word)) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}
