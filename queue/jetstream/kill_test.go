package jetstream

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// helperDir is set for a copy of this test binary that plays a weir which is
// killed: what it prints was acknowledged to it.
const helperDir = "WEIR_TEST_STORE_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		putForEver(dir)
	}
	code := m.Run()
	os.RemoveAll(natsServerDir)
	os.Exit(code)
}

// putForEver puts with many at once and prints "put TEXT" when the store has
// said so; it works off a part, and prints "ack TEXT" of what may be gone.
func putForEver(dir string) {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir, Sync: os.Getenv(helperDir+"_SYNC") != ""})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	if s.doubt.last > 0 {
		fmt.Println("doubtful")
	}
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	for worker := range 8 {
		go func() {
			for i := 0; ; i++ {
				text := fmt.Sprintf("%d.%d.%d", os.Getpid(), worker, i)
				_, _, err := s.Put(ctx, lane, []byte(text+strings.Repeat(" ", 1000)), "")
				fail(err)
				fmt.Println("put " + text)
			}
		}()
	}
	for {
		all, err := s.Fetch(ctx, lane, 5, time.Second)
		fail(err)
		for _, d := range all[:min(2, len(all))] { // the rest is on its way when it is killed
			// Said before: it may be killed between the two.
			fmt.Println("ack " + strings.TrimSpace(string(d.Item().Data)))
			fail(d.Ack(ctx))
		}
	}
}

func runHelper(t *testing.T, dir string, lines int, put, acked map[string]bool, more ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), helperDir+"="+dir), more...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	in := bufio.NewScanner(out)
	for n := 0; in.Scan(); {
		what, text, _ := strings.Cut(in.Text(), " ")
		switch what {
		case "put":
			put[text] = true
			n++
		case "ack":
			acked[text] = true
		case "error":
			t.Fatalf("a store that nobody killed: %s", text)
		}
		if n == lines {
			cmd.Process.Kill() // what is in the pipe was acknowledged too
		}
	}
}

func TestWhatWasAcknowledgedSurvivesKill9(t *testing.T) {
	rounds := 5
	if testing.Short() {
		rounds = 1
	}
	for _, sync := range []string{"", helperDir + "_SYNC=1"} {
		dir := t.TempDir()
		put, acked := map[string]bool{}, map[string]bool{}
		for round := range rounds {
			runHelper(t, dir, 200+150*round, put, acked, sync)
		}
		s := open(t, Config{Dir: dir})
		there := map[string]int{}
		redelivered := 0
		for {
			all, err := s.Fetch(t.Context(), lane, 500, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 0 {
				break
			}
			for _, d := range all {
				there[strings.TrimSpace(string(d.Item().Data))]++
				if d.Times() > 1 {
					redelivered++
				}
			}
			ack(t, all...)
		}
		for text := range put {
			if there[text] == 0 && !acked[text] {
				t.Errorf("%s was acknowledged and is lost", text)
			}
		}
		for text, n := range there {
			if n > 1 {
				t.Errorf("%s was delivered %d times at once", text, n)
			}
		}
		back := 0
		for text := range acked {
			back += min(there[text], 1)
		}
		t.Logf("sync=%v: %d put, %d worked off, %d found, %d of them delivered before, %d worked off and back", sync != "", len(put), len(acked), len(there), redelivered, back)
		s.Close()
	}
}

func TestSyncIsTheServers(t *testing.T) {
	for _, sync := range []bool{false, true} {
		s := open(t, Config{Dir: t.TempDir(), Sync: sync})
		if got := s.server.running.JetStreamConfig().SyncAlways; got != sync {
			t.Errorf("sync %v: server has %v", sync, got)
		}
	}
}

// ledger is what puts said, of many goroutines.
type ledger struct {
	mu  sync.Mutex
	has map[string]bool
}

func (l *ledger) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.has == nil {
		l.has = map[string]bool{}
	}
	l.has[text] = true
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.has)
}
