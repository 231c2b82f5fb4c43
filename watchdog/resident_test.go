package watchdog

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// smapsOf is the start of each entry as the kernel writes it.
const smapsOf = `00400000-00861000 r-xp 00000000 fe:00 1234    /usr/bin/fwatchdog
Size:               4484 kB
Rss:                3968 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00861000-00d20000 r--p 00461000 fe:00 1234    /usr/bin/fwatchdog
Rss:                4412 kB
Anonymous:             4 kB
00d20000-00d86000 rw-p 00920000 fe:00 1234    /usr/bin/fwatchdog
Anonymous:             0 kB
7f00000000-7f00001000 r--p 00000000 fe:00 99  /lib/ld.so
Anonymous:             0 kB
7f00002000-7f00003000 r--p 00000000 00:00 0   [vvar]
Anonymous:             0 kB
`

func TestOnlyCleanPagesOfTheProgramAreForgotten(t *testing.T) {
	want := []mapping{{0x400000, 0x861000}} // not relocated constants, data or another file
	if got := cleanMappings(strings.NewReader(smapsOf), "/usr/bin/fwatchdog"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestForgetStartLeavesAWorkingProgram(t *testing.T) {
	for range 3 {
		forgetStart()
		if _, err := os.ReadFile("/proc/self/smaps"); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzCleanMappings(f *testing.F) {
	f.Add(smapsOf)
	f.Add("1-0 r--p 0 0 0 x\nAnonymous: 0 kB\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range cleanMappings(strings.NewReader(text), "x") {
			if m.start >= m.end {
				t.Errorf("%x", m)
			}
		}
	})
}
