// Package cage runs a program inside control groups of its own with limits on
// memory, processes and processor time, for tests and measurements that need a limit which the
// kernel enforces. It works with cgroup v1 and v2, and needs root.
package cage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// ErrUnavailable is what New wraps when this machine has no such group to give:
// no root, or no controller that may be used below this process.
var ErrUnavailable = errors.New("no control group to be had")

// Limits are what a Cage enforces; zero of one leaves its controller alone.
type Limits struct {
	// Memory is in bytes. There is no swap beside it.
	Memory int64
	// Pids counts processes and threads.
	Pids int
	// CPU is in processors, such as 0.2.
	CPU float64
}

// Cage is one set of control groups, empty at first.
type Cage struct {
	memory, pids, cpu *group
	groups            []*group
	// cleaner ends what runs inside and removes the groups when its input
	// ends, and that is when this process ends, however it does.
	cleaner *exec.Cmd
	release io.Closer
}

// group is one folder of one hierarchy.
type group struct {
	dir string
	v2  bool
}

var serial atomic.Int64

// New makes the groups below those of the calling process, or with cgroup v2
// beside them where they may have no children. Whoever calls it calls Close.
func New(l Limits) (*Cage, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", ErrUnavailable)
	}
	c := &Cage{}
	name := fmt.Sprintf("weir-%d-%d", os.Getpid(), serial.Add(1))
	var err error
	if l.Memory > 0 {
		if c.memory, err = c.place("memory", name); err != nil {
			return nil, err
		}
	}
	if l.Pids > 0 {
		if c.pids, err = c.place("pids", name); err != nil {
			return nil, err
		}
	}
	if l.CPU > 0 {
		if c.cpu, err = c.place("cpu", name); err != nil {
			return nil, err
		}
	}
	if err := c.startCleaner(); err != nil {
		return nil, err
	}
	if err := c.build(l); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// place finds the folder that a controller's group will have. Controllers of
// one hierarchy share it.
func (c *Cage) place(controller, name string) (*group, error) {
	parent, v2, err := parentOf(controller)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(parent, name)
	for _, g := range c.groups {
		if g.dir == dir {
			return g, nil
		}
	}
	g := &group{dir: dir, v2: v2}
	c.groups = append(c.groups, g)
	return g, nil
}

func (c *Cage) build(l Limits) error {
	for _, g := range c.groups {
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if l.Memory > 0 {
		if err := c.SetMemory(l.Memory); err != nil {
			return err
		}
	}
	if l.Pids > 0 {
		if err := c.SetPids(l.Pids); err != nil {
			return err
		}
	}
	if l.CPU > 0 {
		return c.cpu.limitCPU(l.CPU)
	}
	return nil
}

// clean is the cleaner's script. What it ends is by definition inside.
const clean = `read -r _
for dir; do
	tries=0
	while [ -d "$dir" ] && [ $tries -lt 500 ]; do
		for pid in $(cat "$dir/cgroup.procs"); do kill -9 "$pid"; done
		rmdir "$dir" || sleep 0.02
		tries=$((tries + 1))
	done
done 2>/dev/null`

func (c *Cage) startCleaner() error {
	args := []string{"-c", clean, "sh"}
	for _, g := range c.groups {
		args = append(args, g.dir)
	}
	c.cleaner = exec.Command("/bin/sh", args...)
	c.cleaner.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is not for it
	in, err := c.cleaner.StdinPipe()
	if err != nil {
		return err
	}
	c.release = in
	return c.cleaner.Start()
}

// Close kills what runs inside and removes the groups.
func (c *Cage) Close() error {
	c.release.Close()
	if err := c.cleaner.Wait(); err != nil {
		return fmt.Errorf("removal of a control group: %w", err)
	}
	for _, g := range c.groups {
		if _, err := os.Stat(g.dir); err == nil {
			return fmt.Errorf("control group %s is still there", g.dir)
		}
	}
	return nil
}

// enter moves the shell inside, then becomes the program.
const enter = `while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@"`

// Command is exec.Command for a program that is inside from its first
// instruction on, with all that it starts. Its process has the program's pid.
func (c *Cage) Command(program string, args ...string) *exec.Cmd {
	argv := c.Argv(append([]string{program}, args...)...)
	return exec.Command(argv[0], argv[1:]...)
}

// Argv is the command line with which argv runs inside.
func (c *Cage) Argv(argv ...string) []string {
	all := []string{"/bin/sh", "-c", enter, "sh"}
	for _, g := range c.groups {
		all = append(all, filepath.Join(g.dir, "cgroup.procs"))
	}
	return append(append(all, "--"), argv...)
}

// SetMemory changes the limit, in bytes.
func (c *Cage) SetMemory(bytes int64) error {
	text := strconv.FormatInt(bytes, 10)
	if c.memory.v2 {
		if err := c.memory.write("memory.max", text); err != nil {
			return err
		}
		return optional(c.memory.write("memory.swap.max", "0"))
	}
	// The limit with swap is never below the one without.
	both := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	if old, err := c.memory.number(both[0]); err == nil && bytes > old {
		both[0], both[1] = both[1], both[0]
	}
	for _, file := range both {
		if err := optional(c.memory.write(file, text)); err != nil {
			return err
		}
	}
	return nil
}

// optional forgives a file that this kernel does not have.
func optional(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// SetPids changes the limit of processes and threads.
func (c *Cage) SetPids(n int) error { return c.pids.write("pids.max", strconv.Itoa(n)) }

// limitCPU sets the share of each period of a tenth of a second.
func (g *group) limitCPU(processors float64) error {
	const period = 100_000 // microseconds, the kernel's default
	quota := strconv.Itoa(int(processors * period))
	if g.v2 {
		return g.write("cpu.max", quota+" "+strconv.Itoa(period))
	}
	return errors.Join(g.write("cpu.cfs_period_us", strconv.Itoa(period)), g.write("cpu.cfs_quota_us", quota))
}

// Memory is what is used now, in bytes, as the kernel holds it against the
// limit: with the page cache.
func (c *Cage) Memory() (int64, error) {
	return c.memory.either("memory.usage_in_bytes", "memory.current")
}

// Peak is the most that Memory ever was. Linux has it for v2 since 5.19.
func (c *Cage) Peak() (int64, error) {
	return c.memory.either("memory.max_usage_in_bytes", "memory.peak")
}

// OOMKills is how many processes the kernel has killed for want of memory.
func (c *Cage) OOMKills() (int, error) {
	file := "memory.oom_control"
	if c.memory.v2 {
		file = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(c.memory.dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, fmt.Errorf("no oom_kill in %s", file)
}

// Pids is how many processes and threads there are inside.
func (c *Cage) Pids() (int64, error) { return c.pids.number("pids.current") }

// Processes lists the pids inside.
func (c *Cage) Processes() ([]int, error) {
	text, err := os.ReadFile(filepath.Join(c.groups[0].dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (g *group) either(v1, v2 string) (int64, error) {
	if g.v2 {
		return g.number(v2)
	}
	return g.number(v1)
}

func (g *group) number(file string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// write does not create files.
func (g *group) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(g.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
