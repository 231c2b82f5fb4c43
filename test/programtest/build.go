// Package programtest builds the programs of this repository and runs them, for
// tests that try the real thing: fwatchdog, weir, and the handlers that they
// run. What it starts ends with the test, and what it wrote is shown where the
// test failed.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { os.Exit(programtest.Run(m)) }
package programtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/weir-run/weir"

// What the programs are told to be, as the Makefile does.
const (
	Version   = "0.0.0-test"
	Commit    = "0123456789abcdef0123456789abcdef01234567"
	LinkFlags = "-s -w -X main.version=" + Version + " -X main.commit=" + Commit
)

// FwatchdogTags leaves HTTP/2 out of fwatchdog, as the Makefile does.
const FwatchdogTags = "nethttpomithttp2"

// binary is a program that is built at most once per test binary.
type binary struct {
	once sync.Once
	path string
	err  error
}

var built = struct {
	sync.Mutex
	dir string // empty before the first
	all map[string]*binary
}{all: map[string]*binary{}}

// Run runs the tests, and removes what was built for them. It returns the exit
// code.
func Run(m *testing.M) int {
	code := m.Run()
	built.Lock()
	defer built.Unlock()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	return code
}

// Build is the path of the program of a package, which is named from the root
// of the module, "." being fwatchdog's, or in full where it is another module's.
// It is built once for the same flags,
// without cgo unless it is to look for races, and lies in a folder of its own.
func Build(t testing.TB, pkg string, flags ...string) string {
	t.Helper()
	p, err := find(pkg, flags)
	if err != nil {
		t.Fatal(err)
	}
	p.once.Do(func() { p.err = build(p.path, pkg, flags) })
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.path
}

func find(pkg string, flags []string) (*binary, error) {
	built.Lock()
	defer built.Unlock()
	id := strings.Join(append(slices.Clone(flags), pkg), "\x00")
	if p := built.all[id]; p != nil {
		return p, nil
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "weir-test-")
		if err != nil {
			return nil, err
		}
		built.dir = dir
	}
	name := filepath.Base(pkg)
	if pkg == "." {
		name = "fwatchdog"
	}
	p := &binary{path: filepath.Join(built.dir, strconv.Itoa(len(built.all)), name)}
	built.all[id] = p
	return p, nil
}

func build(path, pkg string, flags []string) error {
	args, cgo := []string{"build", "-ldflags", "-s -w"}, "CGO_ENABLED=1"
	if !slices.Contains(flags, "-race") {
		args, cgo = append(args, "-trimpath"), "CGO_ENABLED=0"
	} // else trimmed paths would have it compile anew what the test was built of
	if !strings.HasPrefix(pkg, "github.com/") {
		pkg = strings.TrimSuffix(module+"/"+pkg, "/.")
	}
	cmd := exec.Command("go", slices.Concat(args, flags, []string{"-o", path, pkg})...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// BuildFwatchdog is the path of the built fwatchdog.
func BuildFwatchdog(t testing.TB) string {
	t.Helper()
	return Build(t, ".", "-tags", FwatchdogTags, "-ldflags", LinkFlags)
}

// BuildFwatchdogClassic is the path of the built fwatchdog-classic.
func BuildFwatchdogClassic(t testing.TB) string {
	t.Helper()
	return Build(t, ".", "-tags", FwatchdogTags, "-ldflags", LinkFlags+" -X main.defaultMode=classic")
}

// BuildWeir is the path of the built weir, which looks for races where the test
// does.
func BuildWeir(t testing.TB) string {
	t.Helper()
	var flags []string
	if Race {
		flags = append(flags, "-race")
	}
	return Build(t, "cmd/weir", flags...)
}
