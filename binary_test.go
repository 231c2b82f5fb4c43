package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

func TestMain(m *testing.M) { os.Exit(programtest.Run(m)) }

// fwatchdog is the path of the built fwatchdog; FWATCHDOG names another
// program to run the same tests against.
func fwatchdog(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("FWATCHDOG"); path != "" {
		return path
	}
	return programtest.BuildFwatchdog(t)
}

// fwatchdogClassic is the path of the built fwatchdog-classic, or what
// FWATCHDOG_CLASSIC names.
func fwatchdogClassic(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("FWATCHDOG_CLASSIC"); path != "" {
		return path
	}
	return programtest.BuildFwatchdogClassic(t)
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
	return programtest.Build(t, path)
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
