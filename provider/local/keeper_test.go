package local

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

// brood is a handler that leaves its group in every way there is, does not
// heed TERM there, and hides from who looks for its environment. The last
// argument of each is found by site.processes.
const brood = `
trap '' TERM HUP INT
stay='trap "" TERM HUP INT; while :; do sleep 1; done'
setsid sh -c "$stay" "$TMPDIR/session" &
( (sh -c "$stay" "$TMPDIR/orphan") & )
setsid sh -c "(sh -c '$stay' $TMPDIR/both) &" "$TMPDIR/short"
env -i setsid "$(command -v sh)" -c "$stay" "$TMPDIR/bare" &
exec "$HELLO"
`

// members are what a brood consists of, its fwatchdog and hello aside.
var members = []string{"/session", "/orphan", "/both", "/bare"}

// newBrood is a site with replicas of it.
func newBrood(t *testing.T) *site {
	s := newSite(t, "functions:\n  brood:\n    fprocess: sh brood.sh\n    environment: {mode: http, HELLO: "+hello(t)+"}\n")
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.stack), "brood.sh"), []byte(brood), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// whole waits until n broods are complete.
func (s *site) whole(n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d whole broods", n), func() string {
		all := s.processes()
		for _, member := range append([]string{"hello"}, members...) {
			count := 0
			for _, p := range all {
				if strings.HasSuffix(strings.TrimSpace(p), member) {
					count++
				}
			}
			if count != n {
				return fmt.Sprintf("%d of %s in\n%s", count, member, strings.Join(all, "\n"))
			}
		}
		return ""
	})
}

// beWeir runs a provider of the stack with two replicas of brood until it is
// killed.
func beWeir(stack, fwatchdog string) int {
	s := &site{t: new(testing.T), stack: stack, temp: filepath.Join(filepath.Dir(stack), "temp"), fwatchdog: fwatchdog}
	p, err := New(s.config())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	f := fleet.New(fleet.Config{})
	go func() {
		<-f.Complete()
		if err := p.Scale(context.Background(), ref("brood"), 2, ""); err != nil {
			fmt.Println(err)
		}
		fmt.Println("scaled")
	}()
	if err := p.Run(context.Background(), f); err != nil {
		fmt.Println(err)
	}
	return 1
}

// startWeir runs this binary as a weir of the site.
func (s *site) startWeir() *exec.Cmd {
	s.t.Helper()
	s.temp = filepath.Join(filepath.Dir(s.stack), "temp")
	if err := os.MkdirAll(s.temp, 0o700); err != nil {
		s.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(exe, asWeir, s.stack, s.fwatchdog)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s.nothingLeft()
	})
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "scaled\n" {
		s.t.Fatalf("the weir said %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	s.whole(2)
	return cmd
}

// pids are those of site.processes.
func (s *site) pids() (all []int) {
	for _, p := range s.processes() {
		var pid int
		_, _ = fmt.Sscan(p, &pid)
		all = append(all, pid)
	}
	return all
}

// keepers are the processes that keep the site's replicas, each once: the race
// detector's has been exec'd by env.
func (s *site) keepers() (pids []int) {
	for _, pid := range s.pids() {
		if strings.Contains(describe(pid), " "+asKeeper+" ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestNothingOutlivesAKilledWeir(t *testing.T) {
	t.Parallel()
	s := newBrood(t)
	weir := s.startWeir()
	begin := time.Now()
	kill(t, weir.Process.Pid)
	eventually(t, "all processes have ended", func() string { return strings.Join(s.processes(), "\n") })
	t.Logf("gone %v after kill -9 of weir", time.Since(begin).Round(10*time.Millisecond))
	s.nothingLeft()
}

// What both leave that is not in the handler's group is found by the next one.
func TestNextWeirEndsWhatIsLeftOfBoth(t *testing.T) {
	t.Parallel()
	s := newBrood(t)
	weir := s.startWeir()
	keepers := s.keepers()
	if len(keepers) != 1 {
		t.Fatalf("keepers: %v", keepers)
	}
	// Stopped first, so that the keeper cannot see weir go.
	if err := unix.Kill(keepers[0], unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	kill(t, weir.Process.Pid)
	kill(t, keepers[0])
	eventually(t, "fwatchdogs and handlers have ended", func() string {
		return strings.Join(slices.DeleteFunc(s.processes(), func(p string) bool {
			return !strings.Contains(p, "fwatchdog") && !strings.Contains(p, "hello")
		}), "\n")
	})
	bare := slices.DeleteFunc(s.processes(), func(p string) bool { return !strings.Contains(p, "/bare") })
	next := newSite(t, "functions:\n")
	next.temp = s.temp
	next.open()
	// Neither in the group nor with the environment: nobody can know whose
	// these are. They are the one thing that can be left.
	for _, p := range bare {
		var pid int
		_, _ = fmt.Sscan(p, &pid)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	eventually(t, "the rest has ended", func() string {
		return strings.Join(slices.DeleteFunc(s.processes(), func(p string) bool { return strings.Contains(p, asKeeper) }), "\n")
	})
}

func TestKilledReplicaLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newBrood(t).open()
	s.scale("brood", 2)
	pods := s.up("brood", 2)
	s.whole(2)
	before := s.pids()
	victim := s.watchdogs("brood")[0]
	name, _, _ := strings.Cut(environmentOf(victim, "TMPDIR")[len(s.temp)+1:], ".")
	name = filepath.Base(name)
	kill(t, victim)
	var after []function.Pod
	eventually(t, "another process in its place", func() string {
		after = s.fleet.Get(ref("brood")).Function().Pods
		for i := range after {
			switch same := after[i].UID == pods[i].UID; {
			case after[i].Name != pods[i].Name:
				return fmt.Sprintf("%+v", after)
			case after[i].Name == name && same, after[i].Addr == "":
				return fmt.Sprintf("%+v", after[i])
			case after[i].Name != name && !same:
				t.Fatalf("the other replica was started anew: %+v", after)
			}
		}
		return ""
	})
	s.whole(2)
	kept := 0
	for _, pid := range s.pids() {
		if slices.Contains(before, pid) {
			kept++
		}
	}
	// The keeper, and the other replica: fwatchdog, hello and the four, and
	// what shells among them run for a second.
	if kept < 7 || kept > 12 {
		t.Errorf("%d processes of before are left of %d:\n%s", kept, len(before), strings.Join(s.processes(), "\n"))
	}
	if !strings.Contains(s.log.String(), name+": ended with signal: killed") {
		t.Errorf("nothing was said of it:\n%s", s.log.String())
	}
}

func TestKilledKeeperIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	s := newBrood(t).open()
	s.scale("brood", 2)
	s.up("brood", 2)
	s.whole(2)
	before := s.pids()
	old := s.keepers()
	kill(t, old[0])
	eventually(t, "what it kept has ended", func() string {
		return strings.Join(slices.DeleteFunc(s.processes(), func(p string) bool {
			var pid int
			_, _ = fmt.Sscan(p, &pid)
			return !slices.Contains(before, pid) || strings.Contains(p, "/bare")
		}), "\n")
	})
	for _, pid := range before { // see TestNextWeirEndsWhatIsLeftOfBoth
		if strings.Contains(describe(pid), "/bare") {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	s.up("brood", 2)
	s.whole(2)
	if now := s.keepers(); len(now) != 1 || now[0] == old[0] {
		t.Errorf("keepers: %v, before %v", now, old)
	}
}

func environmentOf(pid int, name string) string {
	for line := range strings.SplitSeq(describe(pid), "\n") {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return ""
}

// The provider's clean end leaves nothing either, and lets what is under way
// finish.
func TestEndLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	slow := programtest.Build(t, "testdata/functions/slow")
	s := newSite(t, "functions:\n  slow:\n    fprocess: "+slow+"\n    environment: {mode: http}\n").open()
	s.scale("slow", 1)
	addr := s.up("slow", 1)[0].Addr
	s.get(addr, "/?ms=0")
	answer := make(chan string, 1)
	go func() { answer <- s.get(addr, "/?ms=2000") }()
	eventually(t, "a call under way", func() string {
		if body := s.get(s.fleet.Get(ref("slow")).Function().Pods[0].Metrics, "/metrics"); !strings.Contains(body, "\nhttp_requests_in_flight 1") {
			return "none in flight"
		}
		return ""
	})
	s.stop()
	if body := <-answer; !strings.HasPrefix(body, "2s later") {
		t.Error(body)
	}
}
