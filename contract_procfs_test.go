package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// process is one entry of /proc. start tells it from a later process with the
// same number.
type process struct {
	pid, parent int
	threads     int
	state       string
	start       string
	command     string
}

// processes lists /proc.
func processes() []process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []process
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if p, ok := lookup(pid); ok {
			all = append(all, p)
		}
	}
	return all
}

// lookup reads one process; ok is false when there is none.
func lookup(pid int) (process, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	open, end := strings.IndexByte(string(raw), '('), strings.LastIndexByte(string(raw), ')')
	f := strings.Fields(string(raw[end+1:]))
	parent, _ := strconv.Atoi(f[1])
	threads, _ := strconv.Atoi(f[17])
	return process{pid: pid, parent: parent, threads: threads, state: f[0], start: f[19], command: string(raw[open+1 : end])}, true
}

// alive is false when the process ended, was reaped, or is a zombie. While a
// thread besides the first is left its sockets may be open.
func (p process) alive() bool {
	now, ok := lookup(p.pid)
	return ok && now.start == p.start && (now.state != "Z" || now.threads > 1) && now.state != "X"
}

// stopped says whether every thread of a process is, by SIGSTOP: none finishes
// what it is at.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", pid))
	for _, file := range threads {
		raw, err := os.ReadFile(file)
		if err == nil && !strings.HasPrefix(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " T ") {
			return false
		}
	}
	return len(threads) > 0
}

// kill ends this very process, never one that took its number later.
func (p process) kill() {
	if p.alive() {
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// descendants lists the children of pid and theirs.
func descendants(pid int) []process {
	all := processes()
	in := map[int]bool{pid: true}
	var found []process
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if in[p.parent] && !in[p.pid] {
				in[p.pid], grown = true, true
				found = append(found, p)
			}
		}
	}
	return found
}

// descriptors counts the open descriptors of a process.
func descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}
