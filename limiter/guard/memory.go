package guard

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/shirou/gopsutil/v3/mem"
)

// memory reads the memory cgroup. What counts is the working set, which is
// what the kubelet counts: usage without the inactive part of the page cache,
// which the kernel drops before it kills.
type memory struct {
	cgroup
	machine func() (total, available uint64, err error)
	total   uint64 // of the machine, read once; 0: not yet
	lowest  uint64 // limit of the own level and of all above, visible or not; 0: unknown
}

// newMemory appends the levels of the memory cgroup that limit this process;
// where none does, its own level over the memory of the machine.
func newMemory(root fs.FS) source {
	return &memory{cgroup: cgroup{files: files{root: root}, controller: "memory"}, machine: machineMemory}
}

func machineMemory() (total, available uint64, err error) {
	vm, err := mem.VirtualMemory()
	if err != nil {
		return 0, 0, fmt.Errorf("memory of the machine: %w", err)
	}
	return vm.Total, vm.Available, nil
}

func (m *memory) read(dst []sample) ([]sample, error) {
	if m.total == 0 {
		// Without it a level that has no limit of its own has none.
		m.total, _, _ = m.machine()
	}
	if err := m.locate(); err != nil {
		return dst, err
	}
	all, err := m.appended(dst)
	if err == nil {
		return all, nil
	}
	m.forget() // something went away: look once where we are now
	if m.locate() != nil {
		return dst, err
	}
	return m.appended(dst)
}

func (m *memory) appended(dst []sample) ([]sample, error) {
	all, err := m.levels(dst, m.level)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && m.isMachine() {
			total, available, err := m.machine()
			if err != nil {
				return dst, err
			}
			return append(dst, sample{used: total - min(total, available), limit: total}), nil
		}
		return dst, err
	}
	own := &all[len(dst)]
	limited := false
	for _, s := range all[len(dst):] {
		limited = limited || s.limit > 0 && s.limit <= m.lowest
	}
	switch {
	case m.lowest > 0 && !limited: // one above, which is not visible
		own.limit = m.lowest
	case len(all) == len(dst)+1 && own.limit == 0:
		own.limit = m.total
	}
	return all, nil
}

// level is the working set and the limit of one cgroup.
func (m *memory) level(dir string, own bool) (s sample, err error) {
	use, max, inactive := "/memory.usage_in_bytes", "/memory.limit_in_bytes", "total_inactive_file"
	if m.v2 {
		use, max, inactive = "/memory.current", "/memory.max", "inactive_file"
	}
	if s.limit, err = m.limit(dir + max); err != nil {
		return s, err
	}
	if s.limit = m.bounding(s.limit); s.limit == 0 && !own {
		return s, nil // nobody asks for its working set
	}
	if s.used, err = m.number(dir + use); err != nil {
		return s, missingFile(err)
	}
	stat, err := m.text(dir + "/memory.stat")
	if err != nil {
		return s, missingFile(err)
	}
	cache, ok := field(stat, inactive)
	if !ok {
		return s, fmt.Errorf("%s/memory.stat: no %s: %w", dir, inactive, errGarbage)
	}
	s.used -= min(s.used, cache)
	if own {
		lowest, _ := field(stat, "hierarchical_memory_limit") // version 1 has it
		m.lowest = m.bounding(lowest)
	}
	return s, nil
}

// bounding is limit, or 0 if the machine has no more than that anyhow.
func (m *memory) bounding(limit uint64) uint64 {
	if limit >= noLimit || m.total > 0 && limit >= m.total {
		return 0
	}
	return limit
}

// isMachine says that the topmost visible cgroup is the root of version 2. It
// alone has statistics but no memory.current: its use is the machine's.
func (m *memory) isMachine() bool {
	_, err := fs.Stat(m.root, m.dirs[len(m.dirs)-1]+"/memory.stat")
	return m.v2 && err == nil
}
