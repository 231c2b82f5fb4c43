package watchdog

import (
	"bufio"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"
)

// cgroupCPU reads the processor seconds of the cgroup that a container sees as
// its root: cpu.stat of cgroup v2, cpuacct.usage of v1. fsys is /sys/fs/cgroup.
func cgroupCPU(fsys fs.FS) (seconds float64, ok bool) {
	if f, err := fsys.Open("cpu.stat"); err == nil {
		defer f.Close()
		return usageUsec(f)
	}
	for _, dir := range []string{"cpuacct", "cpu,cpuacct"} {
		if raw, err := fs.ReadFile(fsys, dir+"/cpuacct.usage"); err == nil {
			ns, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
			return float64(ns) / 1e9, err == nil
		}
	}
	return 0, false
}

func usageUsec(r io.Reader) (float64, bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if rest, found := strings.CutPrefix(lines.Text(), "usage_usec "); found {
			usec, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
			return float64(usec) / 1e6, err == nil
		}
	}
	return 0, false
}

// cpuSeconds is the source of watchdog_cpu_seconds_total. PID 1 is taken to
// have a container, and so a cgroup, to itself. Any other shares its cgroup
// with strangers and counts itself, its children that ended and the handler.
func cpuSeconds(handlerPID func() int) func() (float64, bool) {
	if os.Getpid() == 1 {
		return func() (float64, bool) { return cgroupCPU(os.DirFS("/sys/fs/cgroup")) }
	}
	return func() (float64, bool) {
		var own, ended unix.Rusage
		if unix.Getrusage(unix.RUSAGE_SELF, &own) != nil || unix.Getrusage(unix.RUSAGE_CHILDREN, &ended) != nil {
			return 0, false
		}
		sum := rusageSeconds(own) + rusageSeconds(ended)
		if pid := handlerPID(); pid > 0 {
			if p, err := process.NewProcess(int32(pid)); err == nil {
				if times, err := p.Times(); err == nil {
					sum += times.User + times.System
				}
			}
		}
		return sum, true
	}
}

func rusageSeconds(u unix.Rusage) float64 {
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
