package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// cgroup finds where this process stands in the hierarchy of one controller,
// and what is visible of it from here.
type cgroup struct {
	files
	controller string

	dirs  []string // names in files.root, innermost first
	v2    bool
	said  []byte // /proc/self/cgroup when dirs were found
	asked int    // reads since it was looked at
}

// maxLevels bounds the levels that are looked at. Kubernetes makes five.
const maxLevels = 32

// levels appends a sample of each level that can be read: of the innermost
// that has the controller, and of those above that have a limit. one reads a
// level, the own one or one above; fs.ErrNotExist from it says that the level
// does not have the controller.
func (c *cgroup) levels(dst []sample, one func(dir string, own bool) (sample, error)) ([]sample, error) {
	start := len(dst)
	var missing error
	for _, dir := range c.dirs {
		own := len(dst) == start
		s, err := one(dir, own)
		switch {
		case err == nil && (own || s.limit > 0):
			dst = append(dst, s)
		case !own || err == nil:
			// A level above that limits nothing, or that cannot be read.
		case errors.Is(err, fs.ErrNotExist):
			missing = err
		default:
			return dst, err
		}
	}
	if len(dst) == start {
		return dst, missing
	}
	return dst, nil
}

// missingFile is err for a file of a level that has the controller: that it
// does not exist is a fault then.
func missingFile(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("incomplete level: %v", err)
	}
	return err
}

// moveReads is after how many reads the process is looked for anew, because it
// may have been moved. That costs as much as a level.
const moveReads = 10

// locate brings dirs up to date.
func (c *cgroup) locate() error {
	if c.asked++; len(c.dirs) > 0 && c.asked < moveReads {
		return nil
	}
	c.asked = 0
	text, err := c.text("proc/self/cgroup")
	if err != nil {
		c.forget()
		return err
	}
	if len(c.dirs) > 0 && bytes.Equal(text, c.said) {
		return nil
	}
	c.forget()
	said := bytes.Clone(text)
	own, v2, ok := parseCgroup(said, c.controller)
	if !ok {
		return fmt.Errorf("proc/self/cgroup: no %s controller: %w", c.controller, errNoController)
	}
	long := files{root: c.root} // its buffer is not kept
	if text, err = long.text("proc/self/mountinfo"); err != nil {
		return err
	}
	dir, top := "", ""
	for _, m := range parseMounts(text, c.controller, v2) {
		below, ok := m.holds(c, own)
		if ok && (dir == "" || depth(m.point, below) >= depth(top, dir)) {
			dir, top = below, m.point
		}
	}
	if dir == "" {
		return fmt.Errorf("%s cgroup %s: not visible in any mount", c.controller, own)
	}
	c.said, c.v2, c.dirs = said, v2, upwards(dir, top)
	return nil
}

// errNoController: the kernel, or its command line, has no such controller.
var errNoController = errors.New("no such controller")

func (c *cgroup) forget() { c.dirs, c.said = nil, nil }

// upwards is dir and what is above it, up to top.
func upwards(dir, top string) []string {
	dirs := []string{dir}
	for dir != top && dir != "." && len(dirs) < maxLevels {
		dir = path.Dir(dir)
		dirs = append(dirs, dir)
	}
	return dirs
}

// depth is how many levels there are from top down to dir.
func depth(top, dir string) int { return strings.Count(dir, "/") - strings.Count(top, "/") }

// parseCgroup finds a controller in /proc/self/cgroup: in a hierarchy of its
// own (version 1), or in the one of version 2, if there is one.
func parseCgroup(text []byte, controller string) (own string, v2, ok bool) {
	for line := range strings.Lines(string(text)) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, where, found := strings.Cut(rest, ":")
		if !found || !strings.HasPrefix(where, "/") {
			continue
		}
		if slices.Contains(strings.Split(controllers, ","), controller) {
			return where, false, true
		}
		if id == "0" && controllers == "" {
			own, v2, ok = where, true, true
		}
	}
	return own, v2, ok
}

// mount is a mount of a hierarchy, or of a part of it.
type mount struct {
	root  string // the cgroup that is mounted, in the terms of /proc/self/cgroup
	point string // where, a name in an fs.FS
}

// parseMounts finds the mounts of a controller in /proc/self/mountinfo, see
// proc_pid_mountinfo(5).
func parseMounts(text []byte, controller string, v2 bool) []mount {
	var mounts []mount
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, " - cgroup") {
			continue // most mounts of a node are of other kinds
		}
		before, after, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) < 6 || len(kind) < 3 {
			continue
		}
		if v2 && kind[0] != "cgroup2" ||
			!v2 && (kind[0] != "cgroup" || !slices.Contains(strings.Split(kind[2], ","), controller)) {
			continue
		}
		point := strings.TrimPrefix(unescape(fields[4]), "/")
		if point == "" {
			point = "."
		}
		if root := unescape(fields[3]); strings.HasPrefix(root, "/") && fs.ValidPath(point) {
			mounts = append(mounts, mount{root: root, point: point})
		}
	}
	return mounts
}

// unescape undoes the \ooo by which mountinfo writes blanks and backslashes.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+4 <= len(text) {
			if b, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				plain = append(plain, byte(b))
				i += 3
				continue
			}
		}
		plain = append(plain, text[i])
	}
	return string(plain)
}

// holds is the folder of the cgroup own in this mount, if it is there.
//
// Both paths are relative to the root of the cgroup namespace and may begin
// with /.. where they are outside it, so that they are compared, never joined.
// Where own is not below what is mounted, the mount may show our cgroup at its
// top all the same, under another name (a bind mount over it, a kernel that
// is none); then our process is listed there.
func (m mount) holds(c *cgroup, own string) (dir string, ok bool) {
	below, ok := strings.CutPrefix(own, m.root)
	if ok && (below == "" || below[0] == '/' || strings.HasSuffix(m.root, "/")) {
		dir = m.point
		if below = strings.Trim(below, "/"); below != "" {
			dir = strings.TrimPrefix(m.point+"/"+below, "./")
		}
		// A name with .. in it is an error.
		if info, err := fs.Stat(c.root, dir); err == nil && info.IsDir() {
			return dir, true
		}
	}
	return m.point, c.lists(m.point)
}

// lists says whether our process is in a cgroup.
func (c *cgroup) lists(dir string) bool {
	text, err := c.text("proc/self/stat")
	if err != nil {
		return false
	}
	pid, _, _ := strings.Cut(string(text), " ")
	text, err = c.text(path.Join(dir, "cgroup.procs"))
	if err != nil || pid == "" {
		return false
	}
	for line := range bytes.Lines(text) {
		if string(bytes.TrimSuffix(line, []byte("\n"))) == pid {
			return true
		}
	}
	return false
}
