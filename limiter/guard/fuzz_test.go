package guard

import (
	"io/fs"
	"math"
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

func FuzzMark(f *testing.F) {
	for _, s := range []string{"90%", "0.5%", "200Mi", "900", "off", "", "120%", "NaN%", "8388608Ti", "1e-300%", "0.000001%"} {
		f.Add(s, uint64(1000))
	}
	f.Fuzz(func(t *testing.T, text string, limit uint64) {
		m, err := ParseUse(text)
		free, freeErr := ParseFree(text)
		if (err == nil) != (freeErr == nil) || m != free {
			t.Fatalf("%q: %v, %v and %v, %v", text, m, err, free, freeErr)
		}
		if err != nil {
			if m != (Mark{}) {
				t.Fatalf("%q: %+v with an error", text, m)
			}
			return
		}
		if again, err := ParseUse(m.String()); err != nil || again != m {
			t.Fatalf("%q is %q is %+v, %v", text, m, again, err)
		}
		if m.Off() != (text == "off") || m.percent < 0 || m.percent > 100 || m.absolute > math.MaxInt64 || m.percent > 0 && m.absolute > 0 {
			t.Fatalf("%q: %+v", text, m)
		}
		use, ok := m.use(limit)
		if ok != (!m.Off() && (limit > 0 || m.Absolute())) || ok && (use == 0 || !m.Absolute() && use > limit) {
			t.Fatalf("%q of %d: %d, %v", text, limit, use, ok)
		}
		if !m.Absolute() && m.free(limit) > limit {
			t.Fatalf("%q of %d: %d free", text, limit, m.free(limit))
		}
	})
}

// FuzzCgroup gives the two files that say where to read. What comes of them is
// a name inside the file system, or an error.
func FuzzCgroup(f *testing.F) {
	for _, c := range trees {
		root := tree(f, c.name)
		f.Add(root["proc/self/cgroup"].Data, root["proc/self/mountinfo"].Data, root["proc/self/stat"].Data)
	}
	f.Add([]byte("0::/../.."), []byte("1 1 0:1 /.. /a/\\056\\056/b rw - cgroup2 none rw"), []byte("7"))
	f.Fuzz(func(t *testing.T, cgroupText, mountinfo, stat []byte) {
		for _, controller := range []string{"memory", "pids"} {
			c := cgroup{controller: controller, files: files{root: open{
				"proc/self/cgroup":    {Data: cgroupText},
				"proc/self/mountinfo": {Data: mountinfo},
				"proc/self/stat":      {Data: stat},
			}}}
			if err := c.locate(); (err == nil) != (len(c.dirs) > 0) {
				t.Fatalf("%q, %v", c.dirs, err)
			}
			if len(c.dirs) > maxLevels {
				t.Fatalf("%d levels", len(c.dirs))
			}
			for i, dir := range c.dirs {
				if !fs.ValidPath(dir) {
					t.Fatalf("%q is no name", dir)
				}
				if i > 0 && dir != path.Dir(c.dirs[i-1]) {
					t.Fatalf("%q is not above %q", dir, c.dirs[i-1])
				}
			}
		}
	})
}

// open is a file system in which every other name is a folder.
type open map[string]*fstest.MapFile

func (o open) Open(name string) (fs.File, error) { return fstest.MapFS(o).Open(name) }

func (o open) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	return fs.Stat(fstest.MapFS{"folder/file": {}}, "folder")
}

// FuzzMemory gives the files of a level, of either version.
func FuzzMemory(f *testing.F) {
	const stat = "anon 1\ninactive_file 20\nhierarchical_memory_limit 700\ntotal_inactive_file 30\n"
	f.Add([]byte("100\n"), []byte("1000\n"), []byte(stat), []byte("50\n"), []byte("100\n"))
	f.Add([]byte("100\n"), []byte("max\n"), []byte(stat), []byte("50\n"), []byte("max\n"))
	f.Add([]byte("18446744073709551615\n"), []byte("9223372036854771712\n"), []byte("inactive_file\n"), []byte("-1"), []byte("1e3"))
	f.Fuzz(func(t *testing.T, used, limit, stat, tasks, most []byte) {
		for _, name := range []string{"v1-container", "v2-container"} {
			root := tree(t, name)
			for file, text := range map[string][]byte{
				"memory/memory.usage_in_bytes": used, "memory/memory.limit_in_bytes": limit, "memory/memory.stat": stat,
				"pids/pids.current": tasks, "pids/pids.max": most,
				"memory.current": used, "memory.max": limit, "memory.stat": stat, "pids.current": tasks, "pids.max": most,
			} {
				if old := root["sys/fs/cgroup/"+file]; old != nil {
					old.Data = text
				}
			}
			for _, c := range []struct {
				source source
				limit  uint64
				most   int
			}{{memoryOf(root), machineTotal, 1}, {newPids(root), machineMost, 2}} {
				got, err := c.source.read(nil)
				if (err == nil) != (len(got) > 0) || len(got) > c.most {
					t.Fatalf("%s: %v, %v", name, got, err)
				}
				for _, s := range got {
					if s.limit > c.limit {
						t.Fatalf("%s: %v", name, got)
					}
				}
				if len(got) > 0 && got[len(got)-1].limit == 0 {
					t.Fatalf("%s: %v has no limit", name, got)
				}
			}
		}
	})
}

func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"1\n", "max\n", "max", "", "\n", "-1", "9223372036854771712\n", "18446744073709551616", "1 2", "٣"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, ok := parseNumber(text)
		if ok && strings.Trim(strings.TrimSuffix(string(text), "\n"), "0123456789") != "" {
			t.Fatalf("%q is %d", text, n)
		}
		limit, limitOk := parseLimit(text)
		if ok && (!limitOk || limit != n && limit != 0) || limit >= noLimit {
			t.Fatalf("%q: number %d, limit %d, %v", text, n, limit, limitOk)
		}
		line := append([]byte("name "), text...)
		if m, ok2 := field(line, "name"); ok && (!ok2 || m != n) {
			t.Fatalf("%q: %d, %v", line, m, ok2)
		}
	})
}

// FuzzProcess gives what is read of processes and of the machine.
func FuzzProcess(f *testing.F) {
	f.Add([]byte(limitsText("1024")), []byte("12 13 \n"), []byte("0.52 0.58 0.59 3/1042 28841\n"))
	f.Add([]byte(limitsText("unlimited")), []byte("-1 0 99999999999"), []byte("1 2 3 / 4"))
	f.Add([]byte("Max open files 1 1"), []byte(""), []byte(""))
	f.Fuzz(func(t *testing.T, limits, children, loadavg []byte) {
		if n, ok := parseOpenFiles(limits); n >= noLimit || !ok && n != 0 {
			t.Fatalf("%q: %d, %v", limits, n, ok)
		}
		for _, pid := range parseChildren(children) {
			if pid <= 0 {
				t.Fatalf("%q: %d", children, pid)
			}
		}
		if n, ok := parseTasks(loadavg); !ok && n != 0 {
			t.Fatalf("%q: %d", loadavg, n)
		}
	})
}
