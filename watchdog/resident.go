package watchdog

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart gives back the memory of the program's own code and constants,
// most of which only the start has used: what is needed again is mapped again,
// from the file, when it is touched. The kernel maps a file in blocks, so that
// after the start nearly all of the program counts as resident: 8 of 11 MB. A
// kernel that cannot say which pages are clean is left alone.
func forgetStart() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer smaps.Close()
	for _, m := range cleanMappings(smaps, program) {
		_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

type mapping struct{ start, end uintptr }

// cleanMappings lists the mappings of the file at path, from the text of
// /proc/PID/smaps, that cannot be written to and hold no page that ever was,
// such as a linker leaves behind that has relocated constants.
func cleanMappings(smaps io.Reader, path string) []mapping {
	var list []mapping
	var m mapping
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			var ok bool
			m, ok = parseRange(fields[0])
			ours = ok && len(fields) == 6 && fields[5] == path && len(fields[1]) == 4 && fields[1][1] == '-'
		case ours && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0":
			list = append(list, m)
		}
	}
	return list
}

func parseRange(s string) (mapping, bool) {
	from, to, _ := strings.Cut(s, "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	return mapping{uintptr(start), uintptr(end)}, err1 == nil && err2 == nil && start < end
}
