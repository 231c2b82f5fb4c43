package guard

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskIsThatOfStatfs compares with the system call. Others write to the
// file system of the temp folder meanwhile, so the totals are compared, and
// the use with what was just before and just after.
func TestDiskIsThatOfStatfs(t *testing.T) {
	dir := t.TempDir()
	bytes, inodes := newDisk(dir)
	var before, after unix.Statfs_t
	for range 100 {
		if err := unix.Statfs(dir, &before); err != nil {
			t.Fatal(err)
		}
		b, err := bytes.read(nil)
		if err != nil || len(b) != 1 {
			t.Fatalf("bytes: %v, %v", b, err)
		}
		i, err := inodes.read(nil)
		if before.Files == 0 {
			if !errors.Is(err, errNothing) || len(i) > 0 {
				t.Fatalf("inodes: %v, %v", i, err)
			}
			i = []sample{{0, 0}}
		} else if err != nil || len(i) != 1 {
			t.Fatalf("inodes: %v, %v", i, err)
		}
		if err := unix.Statfs(dir, &after); err != nil {
			t.Fatal(err)
		}
		if before != after {
			continue
		}
		size := uint64(before.Bsize)
		if want := (sample{(before.Blocks - before.Bavail) * size, before.Blocks * size}); b[0] != want {
			t.Errorf("bytes: %v, want %v", b[0], want)
		}
		if want := (sample{before.Files - before.Ffree, before.Files}); before.Files > 0 && i[0] != want {
			t.Errorf("inodes: %v, want %v", i[0], want)
		}
		return
	}
	t.Skip("the file system never stood still")
}

// TestDiskFollowsWrites fills a file system of its own.
func TestDiskFollowsWrites(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=8m,nr_inodes=100"); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	bytes, inodes := newDisk(dir)
	read := func(s source) sample {
		t.Helper()
		got, err := s.read(nil)
		if err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		return got[0]
	}
	if got := read(bytes); got != (sample{0, 8 << 20}) {
		t.Errorf("empty: %v", got)
	}
	empty := read(inodes)
	if empty.limit != 100 {
		t.Errorf("empty: %v inodes", empty)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(bytes); got != (sample{5 << 20, 8 << 20}) {
		t.Errorf("5 MiB written: %v", got)
	}
	if got := read(inodes); got != (sample{empty.used + 1, 100}) {
		t.Errorf("a file made: %v inodes", got)
	}
}

func TestDiskThatIsNone(t *testing.T) {
	bytes, inodes := newDisk(filepath.Join(t.TempDir(), "nowhere"))
	for _, s := range []source{bytes, inodes} {
		if got, err := s.read(nil); !errors.Is(err, os.ErrNotExist) || len(got) > 0 {
			t.Errorf("%v, %v", got, err)
		}
	}
	// A file system that counts nothing.
	bytes, inodes = newDisk("/proc")
	for _, s := range []source{bytes, inodes} {
		if got, err := s.read(nil); !errors.Is(err, errNothing) || len(got) > 0 {
			t.Errorf("/proc: %v, %v", got, err)
		}
	}
}
