package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
)

// descriptors reads how many descriptors processes have open, and how many
// they may have.
type descriptors struct {
	files
	checked bool // whether the size of a folder of descriptors is their number
	sizes   bool
}

// process is what is read of one.
type process struct {
	pid        int
	fd, limits string // names
	last       sample
	listed     int // reads for which last is still good enough
}

func processOf(name string) *process {
	return &process{fd: "proc/" + name + "/fd", limits: "proc/" + name + "/limits"}
}

// listedPerRead bounds how many entries of a folder are read, on the average,
// for one sample: half a millisecond.
const listedPerRead = 500

// count is the number of descriptors. From Linux 6.2 on it is the size of the
// folder; where it is not, the folder is listed, the more seldom the longer it
// is.
func (d *descriptors) count(p *process) (uint64, error) {
	if !d.checked {
		d.sizes, d.checked = d.check(), true
	}
	if d.sizes {
		info, err := fs.Stat(d.root, p.fd)
		if err != nil {
			return 0, err
		}
		return uint64(max(0, info.Size())), nil
	}
	if p.listed > 0 {
		p.listed--
		return p.last.used, nil
	}
	n, err := d.list(p.fd)
	p.listed = n / listedPerRead
	return uint64(n), err
}

// check compares size and list of our own descriptors, once. Others of this
// process open and close some meanwhile.
func (d *descriptors) check() bool {
	const own = "proc/self/fd"
	info, err := fs.Stat(d.root, own)
	if err != nil || info.Size() <= 0 {
		return false
	}
	n, err := d.list(own)
	tolerance := int64(16 + n/8)
	return err == nil && info.Size() >= int64(n)-tolerance && info.Size() <= int64(n)+tolerance
}

// list counts the entries of a folder.
func (d *descriptors) list(name string) (n int, err error) {
	dir, err := d.root.Open(name)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	folder, ok := dir.(fs.ReadDirFile)
	if !ok {
		return 0, fmt.Errorf("%s: not a folder", name)
	}
	for {
		entries, err := folder.ReadDir(256)
		n += len(entries)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// sampled is what p has open now over its soft limit, which is 0 where it is
// not known.
func (d *descriptors) sampled(p *process) error {
	text, err := d.text(p.limits)
	if err != nil {
		return err
	}
	if len(text) == 0 { // it has ended and nobody has waited for it
		return fmt.Errorf("%s: %w", p.limits, fs.ErrNotExist)
	}
	limit, ok := parseOpenFiles(text)
	if !ok {
		return fmt.Errorf("%s: %w", p.limits, errGarbage)
	}
	used, err := d.count(p)
	if err != nil {
		return err
	}
	p.last = sample{used: used, limit: limit}
	return nil
}

// parseOpenFiles finds the soft limit in /proc/PID/limits.
func parseOpenFiles(text []byte) (uint64, bool) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("Max open files ")); ok {
			fields := bytes.Fields(rest)
			if len(fields) < 2 { // soft, hard, unit
				return 0, false
			}
			if string(fields[0]) == "unlimited" {
				return 0, true
			}
			return parseLimit(fields[0])
		}
	}
	return 0, false
}

// ownFds are the descriptors of this process.
type ownFds struct {
	descriptors
	self *process
}

// newOwnFds has one sample, of this process.
func newOwnFds(root fs.FS) source {
	return &ownFds{descriptors: descriptors{files: files{root: root}}, self: processOf("self")}
}

func (o *ownFds) read(dst []sample) ([]sample, error) {
	if err := o.sampled(o.self); err != nil {
		return dst, err
	}
	return append(dst, o.self.last), nil
}

// handlerFds are those of the handler's process and its descendants, each of
// which has a limit of its own.
type handlerFds struct {
	descriptors
	pid   func() int
	tree  []*process // the handler first
	reads int        // since the tree was looked at
	next  int        // of the tree, to be read in turn
}

// newHandlerFds has one sample: of the handler's process and its descendants
// the one with the highest share. pid is 0 while there is no handler.
func newHandlerFds(root fs.FS, pid func() int) source {
	return &handlerFds{descriptors: descriptors{files: files{root: root}}, pid: pid}
}

const (
	// maxProcesses of the handler's tree are looked at, and at most
	// maxThreads of theirs for children.
	maxProcesses, maxThreads = 64, 256
	// treeReads is after how many reads the tree is looked at anew.
	treeReads = 20
	// inTurn is how many descendants are read at each read, beside the
	// handler and the one that was worst.
	inTurn = 2
)

func (h *handlerFds) read(dst []sample) ([]sample, error) {
	pid := h.pid()
	if pid <= 0 {
		h.tree = nil
		return dst, errNothing
	}
	if len(h.tree) == 0 || h.tree[0].pid != pid || h.reads >= treeReads {
		h.look(pid)
	}
	h.reads++
	if err := h.sampled(h.tree[0]); errors.Is(err, fs.ErrNotExist) {
		h.tree = nil
		return dst, errNothing // it has ended
	} else if err != nil {
		return dst, err
	}
	if worst := h.worst(); worst != h.tree[0] {
		h.refresh(worst)
	}
	for range min(inTurn, len(h.tree)-1) {
		h.next = h.next%(len(h.tree)-1) + 1
		h.refresh(h.tree[h.next])
	}
	return append(dst, h.worst().last), nil
}

// refresh reads a descendant. One that cannot be read counts for nothing: most
// likely it has ended.
func (h *handlerFds) refresh(p *process) {
	if h.sampled(p) != nil {
		p.last = sample{}
	}
}

// worst has the highest share.
func (h *handlerFds) worst() *process {
	worst := h.tree[0]
	for _, p := range h.tree[1:] {
		if p.last.share() > worst.last.share() {
			worst = p
		}
	}
	return worst
}

// share is used over limit, 0 where there is none.
func (s sample) share() float64 {
	if s.limit == 0 {
		return 0
	}
	return float64(s.used) / float64(s.limit)
}

// look finds the tree, and keeps what is known of those that were in it.
func (h *handlerFds) look(pid int) {
	known := map[int]*process{}
	for _, p := range h.tree {
		known[p.pid] = p
	}
	h.tree, h.reads = h.tree[:0:0], 0
	queue, seen, threads := []int{pid}, map[int]bool{pid: true}, maxThreads
	for len(queue) > 0 {
		p := known[queue[0]]
		if p == nil {
			p = processOf(strconv.Itoa(queue[0]))
			p.pid = queue[0]
		}
		h.tree, queue = append(h.tree, p), queue[1:]
		for _, child := range h.children(p.pid, &threads) {
			if !seen[child] && len(seen) < maxProcesses {
				seen[child] = true
				queue = append(queue, child)
			}
		}
	}
}

// children are those that any thread of a process has started. threads is how
// many may be asked still.
func (h *handlerFds) children(pid int, threads *int) (found []int) {
	if *threads <= 0 {
		return nil
	}
	tasks := "proc/" + strconv.Itoa(pid) + "/task"
	dir, err := h.root.Open(tasks)
	if err != nil {
		return nil
	}
	defer dir.Close()
	folder, ok := dir.(fs.ReadDirFile)
	if !ok {
		return nil
	}
	entries, _ := folder.ReadDir(*threads)
	*threads -= len(entries)
	for _, e := range entries {
		text, err := h.text(tasks + "/" + e.Name() + "/children")
		if err != nil {
			continue
		}
		found = append(found, parseChildren(text)...)
	}
	return found
}

// parseChildren reads process ids, each with a blank behind it.
func parseChildren(text []byte) (pids []int) {
	for word := range bytes.FieldsSeq(text) {
		if n, err := strconv.ParseUint(string(word), 10, 31); err == nil && n > 0 {
			pids = append(pids, int(n))
		}
	}
	return pids
}
