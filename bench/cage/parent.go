package cage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// parentOf is the folder in which a group with the controller can be made.
func parentOf(controller string) (dir string, v2 bool, err error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	mount, dir, v2, ok := locate(string(own), string(mounts), controller)
	if !ok {
		return "", false, fmt.Errorf("%w: no %s controller is mounted", ErrUnavailable, controller)
	}
	if !v2 {
		return dir, false, nil
	}
	// A group with processes of its own gives its children no controllers,
	// unless it is the root; then there is room beside it.
	for ; ; dir = filepath.Dir(dir) {
		control := filepath.Join(dir, "cgroup.subtree_control")
		_ = os.WriteFile(control, []byte("+"+controller), 0)
		enabled, err := os.ReadFile(control)
		if err == nil && slices.Contains(strings.Fields(string(enabled)), controller) {
			return dir, true, nil
		}
		if dir == mount || len(dir) <= len(mount) {
			return "", false, fmt.Errorf("%w: the %s controller is not delegated to this process", ErrUnavailable, controller)
		}
	}
}

// locate finds the group of this process that a controller counts: the mount
// point of its hierarchy, and the folder. own and mounts are the texts of
// /proc/self/cgroup and /proc/self/mountinfo.
func locate(own, mounts, controller string) (mount, dir string, v2, ok bool) {
	path, unified := "", ""
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[1] == "" {
			unified = f[2]
		} else if slices.Contains(strings.Split(f[1], ","), controller) {
			path = f[2]
		}
	}
	v2 = path == ""
	if v2 {
		path = unified
	}
	for line := range strings.Lines(mounts) {
		before, after, found := strings.Cut(line, " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if !found || len(f) < 5 || len(fs) < 3 || path == "" {
			continue
		}
		if v2 && fs[0] != "cgroup2" || !v2 && (fs[0] != "cgroup" || !slices.Contains(strings.Split(fs[2], ","), controller)) {
			continue
		}
		below, inside := strings.CutPrefix(path+"/", strings.TrimSuffix(f[3], "/")+"/")
		if !inside {
			below = "" // the mount is of this group, or of one that holds it, under another name
		}
		return f[4], filepath.Join(f[4], below), v2, true
	}
	return "", "", false, false
}
