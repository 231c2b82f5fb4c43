package programtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is one of this machine.
type Process struct {
	Pid int
	// born tells it from a later one with the same number.
	born string
}

// Descendants are the children of a process, and theirs.
func Descendants(pid int) []Process {
	children := map[int][]Process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if s, ok := lookUp(pid); ok {
			children[s.parent] = append(children[s.parent], Process{pid, s.born})
		}
	}
	all := children[pid]
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].Pid]...)
	}
	return all
}

// Gone says whether no thread of it is left but one that waits to be reaped:
// until then its sockets may be open.
func (p Process) Gone() bool {
	s, ok := lookUp(p.Pid)
	return !ok || s.born != p.born || s.state == "X" || s.state == "Z" && s.threads == 1
}

// Kill ends this very process, if it is not gone.
func (p Process) Kill() {
	if !p.Gone() {
		_ = syscall.Kill(p.Pid, syscall.SIGKILL)
	}
}

// Stopped says whether each thread of a process is, by SIGSTOP: the signal
// alone does not say that none finishes what it is at.
func Stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", pid))
	for _, file := range threads {
		if s, ok := readStat(file); ok && s.state != "T" {
			return false
		}
	}
	return len(threads) > 0
}

// status is what a file stat of /proc says; proc_pid_stat(5).
type status struct {
	state           string
	parent, threads int
	born            string
}

func lookUp(pid int) (status, bool) { return readStat(fmt.Sprintf("/proc/%d/stat", pid)) }

func readStat(file string) (status, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return status{}, false
	}
	// The name, in brackets, may hold anything.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 20 {
		return status{}, false
	}
	s := status{state: f[0], born: f[19]}
	s.parent, _ = strconv.Atoi(f[1])
	s.threads, _ = strconv.Atoi(f[17])
	return s, true
}
