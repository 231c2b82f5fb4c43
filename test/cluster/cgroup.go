package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup is the node's own group in every hierarchy of the machine. All that
// it starts is in there, daemons and pods included, and nothing else: that is
// how what is left of a killed node is found and ended.
type cgroup struct {
	name   string
	mounts []string // of every hierarchy
	track  string   // the hierarchy whose membership counts
}

func findCgroup(name string) (cgroup, error) {
	c := cgroup{name: name}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return c, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		head, tail, _ := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(head), strings.Fields(tail)
		if len(fields) < 5 || len(kind) < 3 || kind[0] != "cgroup" && kind[0] != "cgroup2" {
			continue
		}
		c.mounts = append(c.mounts, fields[4])
		if options := strings.Split(kind[2], ","); slices.Contains(options, "pids") || c.track == "" && kind[0] == "cgroup2" {
			c.track = fields[4]
		}
	}
	if c.track == "" {
		return c, errors.New("there is no pids or unified cgroup hierarchy in /proc/self/mountinfo: the kubelet cannot run here")
	}
	return c, nil
}

// programs is the file through which a process joins. A group of its own,
// because on cgroup v2 one with children may hold no process.
func (c cgroup) programs() string {
	return filepath.Join(c.track, c.name, "programs", "cgroup.procs")
}

func (c cgroup) make() error {
	for _, m := range c.mounts {
		if err := os.MkdirAll(filepath.Join(m, c.name), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(c.programs()), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

// dirs lists the group's folders in one hierarchy, children after parents.
func (c cgroup) dirs(mount string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(filepath.Join(mount, c.name), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // a group may go while it is read
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

// pids lists the processes in the group and below it.
func (c cgroup) pids() ([]int, error) {
	dirs, err := c.dirs(c.track)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		some, err := procs(dir)
		if err != nil {
			return nil, err
		}
		pids = append(pids, some...)
	}
	return pids, nil
}

// procs lists the processes in one group; in one that is gone there are none.
func procs(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	var pids []int
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// kill ends every process in the group and removes the group. It kills until
// none is left, since what is killed may just have forked.
func (c cgroup) kill(ctx context.Context) error {
	for {
		pids, err := c.pids()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		left := c.remove()
		if len(pids) == 0 && left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v outlive SIGKILL (%w); see their /proc/PID/stack and %s", pids, errors.Join(ctx.Err(), left), filepath.Join(c.track, c.name))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c cgroup) remove() error {
	var left error
	for _, m := range c.mounts {
		dirs, err := c.dirs(m)
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
				left = fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
	}
	return left
}
