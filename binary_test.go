package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built is one program that is compiled at most once per test process.
type built struct {
	once sync.Once
	path string
	err  error
}

var programs = struct {
	sync.Mutex
	dir  string
	byID map[string]*built
}{byID: map[string]*built{}}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fwatchdog-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// compile builds the package pkg (a path from the root) once and returns the
// program's path.
func compile(t testing.TB, id, pkg, ldflags string) string {
	t.Helper()
	programs.Lock()
	b := programs.byID[id]
	if b == nil {
		b = &built{path: filepath.Join(programs.dir, id)}
		programs.byID[id] = b
	}
	programs.Unlock()
	b.once.Do(func() {
		cmd := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", ldflags, "-o", b.path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// The version that the built programs are told, as the Makefile does.
const (
	testVersion = "0.0.0-test"
	testCommit  = "0123456789abcdef0123456789abcdef01234567"
	linkVersion = "-s -w -X main.version=" + testVersion + " -X main.commit=" + testCommit
)

// fwatchdog is the path of the built fwatchdog; FWATCHDOG names another
// program to run the same tests against.
func fwatchdog(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("FWATCHDOG"); path != "" {
		return path
	}
	return compile(t, "fwatchdog", ".", linkVersion)
}

// fwatchdogClassic is the path of the built fwatchdog-classic, or what
// FWATCHDOG_CLASSIC names.
func fwatchdogClassic(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("FWATCHDOG_CLASSIC"); path != "" {
		return path
	}
	return compile(t, "fwatchdog-classic", ".", linkVersion+" -X main.defaultMode=classic")
}

// child is the path of the handler testdata/children/name. A name with an
// extension (naive.py) is a script: its absolute path.
func child(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("testdata", "children", name)
	if filepath.Ext(name) != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	return compile(t, "child-"+name, "./"+path, "-s -w")
}

// interpreter is the path of python3 or node; the test is skipped where there
// is none. A wrapper that only starts the real one is looked through.
func interpreter(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: %v", name, err)
	}
	if name == "python3" {
		if out, err := exec.Command(path, "-c", "import sys; print(sys.executable)").Output(); err == nil {
			return strings.TrimSpace(string(out))
		}
	}
	return path
}
