package guard

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helper is a real child: this test binary, which opens descriptors, may have
// a child of its own, and answers what it is asked.
type helper struct {
	pid   int
	child int // of it; 0: none
	ask   io.Writer
	told  *bufio.Reader
}

// helperVar is how many descriptors a helper is to open, and its child.
const helperVar = "GUARD_TEST_HELPER"

// start starts a helper that holds own descriptors more than it must, and if
// below is not 0, a child of its own that holds below.
func start(t testing.TB, own, below int) *helper {
	t.Helper()
	return startBy(t, `exec "$0" "$@"`, own, below)
}

// startBy has a shell run what comes before the helper, and become it.
func startBy(t testing.TB, script string, own, below int) *helper {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script, os.Args[0], "-test.run=^TestHelper$")
	// The race detector would sleep a second before the helper ends.
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", helperVar, own, below), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &helper{pid: cmd.Process.Pid, ask: stdin, told: bufio.NewReader(stdout)}
	watchdog := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		stdin.Close() // the helper ends when there is no more to answer
		if err := cmd.Wait(); err != nil {
			t.Errorf("helper: %v", err)
		}
		watchdog.Stop()
	})
	line, err := h.told.ReadString('\n')
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	if _, err := fmt.Sscanf(line, "ready %d", &h.child); err != nil {
		t.Fatalf("helper said %q", line)
	}
	return h
}

// answer is what a helper says.
type answer struct {
	Samples [][2]uint64
	Error   string
}

// read asks the helper for the samples of a source, as it sees them itself.
// What is a number is so many bytes that it takes and keeps.
func (h *helper) read(t *testing.T, name string) (samples []sample) {
	t.Helper()
	if _, err := fmt.Fprintln(h.ask, name); err != nil {
		t.Fatal(err)
	}
	line, err := h.told.ReadBytes('\n')
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	var told answer
	if err := json.Unmarshal(line, &told); err != nil {
		t.Fatalf("helper said %q", line)
	}
	if told.Error != "" {
		t.Fatalf("helper: %s", told.Error)
	}
	for _, s := range told.Samples {
		samples = append(samples, sample{s[0], s[1]})
	}
	return samples
}

// TestHelper is the helper.
func TestHelper(t *testing.T) {
	var own, below, child int
	if _, err := fmt.Sscanf(os.Getenv(helperVar), "%d %d", &own, &below); err != nil {
		t.Skip("is run by other tests")
	}
	for range own {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	if below > 0 {
		child = start(t, below, 0).pid
	}
	fmt.Println("ready", child)
	root := newMachine()
	sources := map[string]source{"memory": newMemory(root), "pids": newPids(root)}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var told answer
		if n, err := strconv.Atoi(in.Text()); err == nil {
			// Of the heap the race detector would take as much again.
			if _, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE); err != nil {
				t.Fatal(err)
			}
		} else if samples, err := sources[in.Text()].read(nil); err != nil {
			told.Error = err.Error()
		} else {
			for _, s := range samples {
				told.Samples = append(told.Samples, [2]uint64{s.used, s.limit})
			}
		}
		line, err := json.Marshal(told)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n", line)
	}
}

// need skips where this process may not open n descriptors.
func need(t testing.TB, n uint64) {
	t.Helper()
	var r syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		t.Fatal(err)
	}
	if r.Cur < n {
		t.Skipf("may open %d descriptors only, %d are needed", r.Cur, n)
	}
}
