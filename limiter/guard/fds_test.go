package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// limitsText is a /proc/PID/limits.
func limitsText(soft string) string {
	return "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max cpu time              unlimited            unlimited            seconds   \n" +
		"Max open filesystems      3                    3                    files     \n" +
		fmt.Sprintf("Max open files            %-20s 1048576              files     \n", soft) +
		"Max locked memory         8388608              8388608              bytes     \n"
}

// proc makes the folder of a process in root: open descriptors, of which a
// kernel that has sizes tells the number, and children of each of its threads.
func proc(root fstest.MapFS, name, soft string, open int, sizes bool, children ...string) {
	at := "proc/" + name
	root[at+"/limits"] = &fstest.MapFile{Data: []byte(limitsText(soft))}
	folder := &fstest.MapFile{Mode: fs.ModeDir | 0o500}
	if sizes {
		folder.Data = make([]byte, open)
	}
	root[at+"/fd"] = folder
	for n := range open {
		root[at+"/fd/"+strconv.Itoa(n)] = &fstest.MapFile{}
	}
	for i, c := range children {
		root[fmt.Sprintf("%s/task/%s%d/children", at, name, i)] = &fstest.MapFile{Data: []byte(c)}
	}
}

func TestOwnDescriptors(t *testing.T) {
	for _, sizes := range []bool{true, false} {
		root := fstest.MapFS{}
		proc(root, "self", "1024", 40, sizes)
		own := newOwnFds(root)
		for range 3 {
			if got, err := own.read([]sample{{1, 2}}); err != nil || !slices.Equal(got, []sample{{1, 2}, {40, 1024}}) {
				t.Errorf("sizes %v: %v, %v", sizes, got, err)
			}
		}
		root["proc/self/limits"].Data = []byte(limitsText("16"))
		if got, err := own.read(nil); err != nil || !slices.Equal(got, []sample{{40, 16}}) {
			t.Errorf("sizes %v, lower limit: %v, %v", sizes, got, err)
		}
		root["proc/self/limits"].Data = []byte(limitsText("unlimited"))
		if got, err := own.read(nil); err != nil || !slices.Equal(got, []sample{{40, 0}}) {
			t.Errorf("sizes %v, no limit: %v, %v", sizes, got, err)
		}
		for _, garbage := range []string{"", "\n", limitsText("many"), limitsText("-1"), "Max open files 7", "Max open files            \n"} {
			root["proc/self/limits"].Data = []byte(garbage)
			if got, err := own.read(nil); err == nil || errors.Is(err, errNothing) || len(got) > 0 {
				t.Errorf("sizes %v, limits %q: %v, %v", sizes, garbage, got, err)
			}
		}
		root["proc/self/limits"].Data = []byte(limitsText("1024"))
		for name := range root {
			if strings.HasPrefix(name, "proc/self/fd") {
				delete(root, name)
			}
		}
		if got, err := own.read(nil); err == nil || len(got) > 0 {
			t.Errorf("sizes %v, no folder: %v, %v", sizes, got, err)
		}
	}
}

// TestSizeThatIsNoCount: other kernels that have a /proc may mean another
// thing by the size of a folder.
func TestSizeThatIsNoCount(t *testing.T) {
	for _, size := range []int{1, 4096} {
		root := fstest.MapFS{}
		proc(root, "self", "1024", 40, true)
		root["proc/self/fd"].Data = make([]byte, size)
		if got, err := newOwnFds(root).read(nil); err != nil || !slices.Equal(got, []sample{{40, 1024}}) {
			t.Errorf("size %d: %v, %v", size, got, err)
		}
	}
}

// TestSizesSpareTheList: the list is read once, to see whether sizes are right.
func TestSizesSpareTheList(t *testing.T) {
	root := counting{MapFS: fstest.MapFS{}, opened: map[string]int{}}
	proc(root.MapFS, "self", "1024", 40, true)
	own := newOwnFds(root)
	for range 10 {
		own.read(nil)
	}
	if n := root.opened["proc/self/fd"]; n != 1 {
		t.Errorf("opened %d times", n)
	}
}

// TestLongListsAreReadSeldom counts how often a folder is opened.
func TestLongListsAreReadSeldom(t *testing.T) {
	root := counting{MapFS: fstest.MapFS{}, opened: map[string]int{}}
	proc(root.MapFS, "self", "10000", 5*listedPerRead, false)
	own := newOwnFds(root)
	for range 60 {
		if got, err := own.read(nil); err != nil || !slices.Equal(got, []sample{{5 * listedPerRead, 10000}}) {
			t.Fatalf("%v, %v", got, err)
		}
	}
	if n := root.opened["proc/self/fd"]; n != 10 {
		t.Errorf("opened %d times", n)
	}
}

// counting counts what is opened, not what is only asked for by Stat.
type counting struct {
	fstest.MapFS
	opened map[string]int
}

func (c counting) Open(name string) (fs.File, error) {
	c.opened[name]++
	return c.MapFS.Open(name)
}

func TestNoHandler(t *testing.T) {
	root, pid := fstest.MapFS{}, 0
	proc(root, "self", "1024", 5, true)
	handler := newHandlerFds(root, func() int { return pid })
	nothing := func(what string) {
		t.Helper()
		if got, err := handler.read(nil); !errors.Is(err, errNothing) || len(got) > 0 {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	nothing("no handler")
	pid = -1
	nothing("negative")
	pid = 41
	nothing("already gone")
	proc(root, "41", "100", 7, true)
	if got, err := handler.read(nil); err != nil || !slices.Equal(got, []sample{{7, 100}}) {
		t.Errorf("%v, %v", got, err)
	}
	root["proc/41/limits"].Data = nil
	nothing("ended, not waited for")
	delete(root, "proc/41/limits")
	nothing("ended")
	proc(root, "42", "200", 7, true)
	pid = 42
	if got, err := handler.read(nil); err != nil || !slices.Equal(got, []sample{{7, 200}}) {
		t.Errorf("the next: %v, %v", got, err)
	}
	proc(root, "43", "300", 7, true)
	pid = 43
	if got, err := handler.read(nil); err != nil || !slices.Equal(got, []sample{{7, 300}}) {
		t.Errorf("another, before the last has gone: %v, %v", got, err)
	}
	pid = 42
	root["proc/42/limits"].Data = []byte("nonsense\n")
	if got, err := handler.read(nil); err == nil || errors.Is(err, errNothing) {
		t.Errorf("nonsense: %v, %v", got, err)
	}
}

// until reads, as often as it takes to look at the whole tree and at each of
// it, and stops when the sample is as wanted.
func until(t *testing.T, s source, want sample) {
	t.Helper()
	var got []sample
	for range treeReads + maxProcesses {
		var err error
		if got, err = s.read(got[:0]); err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		if got[0] == want {
			return
		}
	}
	t.Fatalf("%v, want %v", got, want)
}

func TestWorstOfTheTree(t *testing.T) {
	root := fstest.MapFS{}
	proc(root, "self", "1024", 5, true)
	proc(root, "10", "1000", 100, true, "11 ", "", "12 13 \n")
	proc(root, "11", "1000", 90, true, "garbage -3 0 99999999999 ")
	proc(root, "12", "100", 20, true, "14 ")
	proc(root, "13", "unlimited", 500, true, "10 13 ") // no tree, but no reason to go astray
	proc(root, "14", "100", 30, true)
	proc(root, "20", "100", 100, true) // of somebody else
	handler := newHandlerFds(root, func() int { return 10 }).(*handlerFds)
	until(t, handler, sample{30, 100})
	if n := len(handler.tree); n != 5 {
		t.Errorf("%d processes in the tree", n)
	}
	proc(root, "11", "1000", 999, true)
	until(t, handler, sample{999, 1000})
	for name := range root {
		if strings.HasPrefix(name, "proc/11/") {
			delete(root, name)
		}
	}
	until(t, handler, sample{30, 100})
	root["proc/14/limits"].Data = []byte("nonsense")
	until(t, handler, sample{20, 100})
	proc(root, "12", "100", 1, true, "15 ")
	proc(root, "15", "100", 40, true)
	until(t, handler, sample{40, 100})
}

// TestWorstIsReadEachTime: in a large tree the others take turns.
func TestWorstIsReadEachTime(t *testing.T) {
	root := fstest.MapFS{}
	proc(root, "self", "1024", 5, true)
	var all strings.Builder
	for n := range maxProcesses - 1 {
		fmt.Fprintf(&all, "%d ", 100+n)
		proc(root, strconv.Itoa(100+n), "1000", n, true)
	}
	proc(root, "10", "1000", 1, true, all.String())
	handler := newHandlerFds(root, func() int { return 10 })
	until(t, handler, sample{maxProcesses - 2, 1000})
	for n := 900; n < 910; n++ {
		proc(root, strconv.Itoa(100+maxProcesses-2), "1000", n, true)
		if got, err := handler.read(nil); err != nil || got[0].used != uint64(n) {
			t.Errorf("%v, %v, want %d", got, err, n)
		}
	}
}

// TestTreeIsBounded: a handler may start any number of processes and threads.
func TestTreeIsBounded(t *testing.T) {
	root := counting{MapFS: fstest.MapFS{}, opened: map[string]int{}}
	proc(root.MapFS, "self", "1024", 5, true)
	var all strings.Builder
	for n := range 3 * maxProcesses {
		fmt.Fprintf(&all, "%d ", 100+n)
		proc(root.MapFS, strconv.Itoa(100+n), "1000", 2, true, strconv.Itoa(1000+n))
	}
	threads := slices.Repeat([]string{all.String()}, 3*maxThreads)
	proc(root.MapFS, "10", "1000", 1, true, threads...)
	handler := newHandlerFds(root, func() int { return 10 }).(*handlerFds)
	until(t, handler, sample{2, 1000})
	if n := len(handler.tree); n != maxProcesses {
		t.Errorf("%d processes", n)
	}
	asked, limits := 0, 0
	for name, n := range root.opened {
		if strings.HasSuffix(name, "/children") {
			asked += n
		}
		if strings.HasSuffix(name, "/limits") {
			limits += n
		}
	}
	if asked > maxThreads || limits > 2+inTurn {
		t.Errorf("asked %d threads and read %d processes", asked, limits)
	}
}

// TestRealDescriptors reads a real child and its child, whose limits are
// changed while they run.
func TestRealDescriptors(t *testing.T) {
	need(t, 600)
	root := newMachine()
	h := start(t, 50, 300)
	handler := newHandlerFds(root, func() int { return h.pid })
	count := func(pid int) uint64 {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return uint64(len(entries))
	}
	soft := func(pid int, n uint64) {
		var old unix.Rlimit
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(h.pid); n < 50 {
		t.Fatalf("%d descriptors", n)
	}
	if n := count(h.child); n < 300 {
		t.Fatalf("%d descriptors of the child", n)
	}
	soft(h.pid, 500)
	soft(h.child, 500)
	until(t, handler, sample{count(h.child), 500})
	soft(h.child, 400)
	until(t, handler, sample{count(h.child), 400})
	soft(h.pid, 60)
	until(t, handler, sample{count(h.pid), 60})
}

// TestRealOwnDescriptors: what we open shows at once, by size and by list.
func TestRealOwnDescriptors(t *testing.T) {
	need(t, 600)
	for _, sizes := range []bool{true, false} {
		own := newOwnFds(newMachine()).(*ownFds)
		before, err := own.read(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !sizes {
			own.sizes = false
		} else if !own.sizes {
			t.Log("sizes are no counts on this kernel")
		}
		for range 300 {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
		after, err := own.read(nil)
		if err != nil {
			t.Fatal(err)
		}
		// The runtime opens one or another for itself.
		if more := after[0].used - before[0].used; more < 300 || more > 310 {
			t.Errorf("sizes %v: %v before, %v after", sizes, before, after)
		}
		var r unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || after[0].limit != r.Cur {
			t.Errorf("%v, limit %d, %v", after, r.Cur, err)
		}
	}
}

// TestReadingOpensNothing: no descriptor stays open, whatever goes wrong.
func TestReadingOpensNothing(t *testing.T) {
	root, pid := newMachine(), os.Getpid()
	bytes, inodes := newDisk(t.TempDir())
	sources := []source{newMemory(root), newPids(root), newOwnFds(root), newHandlerFds(root, func() int { return pid }), bytes, inodes}
	for _, s := range sources {
		s.read(nil) // the first use of a file opens the poller
	}
	count := newOwnFds(root)
	before, err := count.read(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		pid = []int{os.Getpid(), 1, 1 << 22, 0}[i%4]
		for _, s := range sources {
			s.read(nil)
		}
		f := files{root: root}
		f.text("proc/self/fd") // a folder
		f.text("nowhere")
		f.number("proc/self/stat")
	}
	if after, err := count.read(nil); err != nil || after[0].used > before[0].used {
		t.Errorf("%v before, %v after, %v", before, after, err)
	}
}
