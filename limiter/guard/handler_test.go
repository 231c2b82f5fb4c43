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
	done  bool
}

// helperVar says what a helper is to do. Its descriptors and its child's.
const helperVar = "GUARD_TEST_HELPER"

// start starts a helper that holds own descriptors more than it must, and if
// below is not 0, a child of its own that holds below.
func start(t testing.TB, own, below int) *helper {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", helperVar, own, below))
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
		if err := cmd.Wait(); err != nil && !h.done {
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

// read asks the helper for the samples of a source, as it sees them itself.
func (h *helper) read(t *testing.T, name string) []sample {
	t.Helper()
	if _, err := fmt.Fprintln(h.ask, name); err != nil {
		t.Fatal(err)
	}
	line, err := h.told.ReadBytes('\n')
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	var told struct {
		Samples [][2]uint64
		Error   string
	}
	if err := json.Unmarshal(line, &told); err != nil {
		t.Fatalf("helper said %q", line)
	}
	if told.Error != "" {
		t.Fatalf("helper: %s", told.Error)
	}
	var samples []sample
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
	var kept [][]byte
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if n, err := strconv.Atoi(in.Text()); err == nil { // so many bytes more
			b := make([]byte, n)
			for i := range b {
				b[i] = 1
			}
			kept = append(kept, b)
			fmt.Println(`{}`)
			continue
		}
		samples, err := sources[in.Text()].read(nil)
		told := struct {
			Samples [][2]uint64
			Error   string
		}{}
		for _, s := range samples {
			told.Samples = append(told.Samples, [2]uint64{s.used, s.limit})
		}
		if err != nil {
			told.Error = err.Error()
		}
		line, err := json.Marshal(told)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n", line)
	}
	_ = kept
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
