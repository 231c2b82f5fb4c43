package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// pids reads the pids cgroup, which counts processes and threads alike.
type pids struct {
	cgroup
	total uint64 // tasks that the machine can have, read once; 0: not yet
}

// newPids appends the levels of the pids cgroup that limit this process; where
// none does, its own level and then the tasks of the whole machine.
func newPids(root fs.FS) source {
	return &pids{cgroup: cgroup{files: files{root: root}, controller: "pids"}}
}

func (p *pids) read(dst []sample) ([]sample, error) {
	if p.total == 0 {
		p.total = p.machineLimit()
	}
	if err := p.locate(); errors.Is(err, errNoController) {
		return p.machine(dst)
	} else if err != nil {
		return dst, err
	}
	all, err := p.appended(dst)
	if err == nil {
		return all, nil
	}
	p.forget() // something went away: look once where we are now
	if p.locate() != nil {
		return dst, err
	}
	return p.appended(dst)
}

func (p *pids) appended(dst []sample) ([]sample, error) {
	all, err := p.levels(dst, p.level)
	if errors.Is(err, fs.ErrNotExist) { // the root of the hierarchy has no count
		return p.machine(dst)
	}
	if err != nil {
		return dst, err
	}
	if len(all) == len(dst)+1 && all[len(dst)].limit == 0 {
		return p.machine(all)
	}
	return all, nil
}

func (p *pids) level(dir string, own bool) (s sample, err error) {
	if s.limit, err = p.limit(dir + "/pids.max"); err != nil {
		return s, err
	}
	if p.total > 0 && s.limit >= p.total {
		s.limit = 0
	}
	if s.limit == 0 && !own {
		return s, nil
	}
	s.used, err = p.number(dir + "/pids.current")
	return s, missingFile(err)
}

// machine appends what the whole machine runs over what it can run.
func (p *pids) machine(dst []sample) ([]sample, error) {
	text, err := p.text("proc/loadavg")
	if err != nil {
		return dst, err
	}
	tasks, ok := parseTasks(text)
	if !ok {
		return dst, fmt.Errorf("proc/loadavg: %w", errGarbage)
	}
	return append(dst, sample{used: tasks, limit: p.total}), nil
}

// machineLimit is how many tasks the machine can have; 0 when it does not say.
func (p *pids) machineLimit() uint64 {
	ids, err := p.limit("proc/sys/kernel/pid_max")
	if err != nil {
		ids = 0
	}
	threads, err := p.limit("proc/sys/kernel/threads-max")
	if err != nil || ids > 0 && ids < threads {
		return ids
	}
	return threads
}

// parseTasks finds the number of tasks in /proc/loadavg, "… 1/93 10598".
func parseTasks(text []byte) (uint64, bool) {
	fields := strings.Fields(string(bytes.TrimSuffix(text, []byte("\n"))))
	if len(fields) != 5 {
		return 0, false
	}
	_, tasks, _ := strings.Cut(fields[3], "/")
	return parseNumber([]byte(tasks))
}
