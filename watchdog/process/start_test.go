package process

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("plain"), "#!/bin/sh\n", 0o644)
	write(t, in("lost"), "#!/no/such/interpreter -x\n", 0o755)
	write(t, in("dos"), "#!/bin/sh\r\necho\r\n", 0o755)
	write(t, in("text"), "echo no interpreter line\n", 0o755)
	write(t, in("badelf"), "\x7fELF\x02\x01\x01 and then nothing of use", 0o755)
	write(t, in("empty"), "", 0o755)
	write(t, in("bin/sub/x"), "", 0o755)
	write(t, in("bin/nox"), "", 0o644)
	write(t, in("oldlibc"), elfWithLoader("/no/such/ld.so"), 0o755)

	for _, c := range []struct {
		name string
		spec Spec
		is   error
		text string // in the error
	}{
		{"no name", Spec{}, ErrNotFound, ""},
		{"not in PATH", Spec{Path: "no-such-program"}, ErrNotFound, "no-such-program: command not found"},
		{"not there", Spec{Path: in("nothing")}, ErrNotFound, in("nothing")},
		{"below a file", Spec{Path: in("plain/x")}, ErrNotFound, "not a directory"},
		{"name too long", Spec{Path: "/" + strings.Repeat("x", 300)}, ErrNotFound, "too long"},
		{"not executable", Spec{Path: in("plain")}, ErrNotExecutable, "permission denied"},
		{"directory", Spec{Path: dir}, ErrNotExecutable, "is a directory"},
		{"interpreter missing", Spec{Path: in("lost")}, ErrNotExecutable, `interpreter "/no/such/interpreter -x" is missing`},
		{"interpreter with CR", Spec{Path: in("dos")}, ErrNotExecutable, `"/bin/sh" is missing (the line ends in CR)`},
		{"no interpreter line", Spec{Path: in("text")}, ErrNotExecutable, "exec format error"},
		{"bad ELF", Spec{Path: in("badelf")}, ErrNotExecutable, "exec format error"},
		{"empty file", Spec{Path: in("empty")}, ErrNotExecutable, "exec format error"},
		{"loader missing", Spec{Path: in("oldlibc")}, ErrNotExecutable, "loader"},
		{"directory in PATH", Spec{Path: "sub", Env: []string{"PATH=" + in("bin")}}, ErrNotExecutable, in("bin/sub")},
		{"no x bit in PATH", Spec{Path: "nox", Env: []string{"PATH=/no/such:" + in("bin")}}, ErrNotExecutable, in("bin/nox")},
		{"no directory", Spec{Path: "/bin/true", Dir: in("nothing")}, fs.ErrNotExist, "working directory"},
		{"directory is a file", Spec{Path: "/bin/true", Dir: in("plain")}, syscall.ENOTDIR, "working directory"},
		{"NUL in an argument", Spec{Path: "/bin/true", Args: []string{"a\x00b"}}, ErrNotExecutable, "invalid argument"},
		{"too much to say", Spec{Path: "/bin/true", Args: []string{strings.Repeat("x", 1<<20)}}, syscall.E2BIG, "/bin/true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Start(c.spec)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v and %q", err, c.is, c.text)
			}
			for _, other := range []error{ErrNotFound, ErrNotExecutable} {
				if other != c.is && errors.Is(err, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
		})
	}
	wait(t, start(t, r, sh("exit 0"))) // a failed start leaves a good Reaper
}

// elfWithLoader is the least that makes the kernel look for a loader.
func elfWithLoader(loader string) string {
	const header, program = 64, 56
	b := make([]byte, header+2*program, 256)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[20] = 2, 62, 1 // executable, x86-64
	b[32], b[52], b[54], b[56] = header, header, program, 2
	interp := b[header:]
	interp[0], interp[4] = 3, 4 // PT_INTERP, readable
	interp[8] = byte(len(b))
	interp[32], interp[40] = byte(len(loader)+1), byte(len(loader)+1)
	load := b[header+program:]
	load[0], load[4], load[17], load[32], load[40] = 1, 5, 0x10, byte(header), byte(header)
	return string(b) + loader + "\x00"
}

func TestLookup(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	dir := t.TempDir()
	const script = "#!/bin/sh\nexit "
	write(t, filepath.Join(dir, "a/tool/not-a-program"), "", 0o644) // a directory of that name
	write(t, filepath.Join(dir, "b/tool"), script+"2\n", 0o644)     // not executable
	write(t, filepath.Join(dir, "c/tool"), script+"3\n", 0o755)
	write(t, filepath.Join(dir, "d/tool"), script+"4\n", 0o755)
	all := dir + "/a:" + dir + "/b:" + dir + "/c:" + dir + "/d"
	for _, c := range []struct {
		name string
		spec Spec
		code int
	}{
		{"first that can be executed", Spec{Path: "tool", Env: []string{"PATH=" + all}}, 3},
		{"first PATH counts", Spec{Path: "tool", Env: []string{"PATH=" + dir + "/d", "PATH=" + all}}, 4},
		{"slash needs no PATH", Spec{Path: dir + "/d/tool"}, 4},
		{"relative to Dir", Spec{Path: "./tool", Dir: dir + "/c"}, 3},
		{"relative PATH, from Dir", Spec{Path: "tool", Dir: dir, Env: []string{"PATH=d"}}, 4},
		{"empty PATH entry is Dir", Spec{Path: "tool", Dir: dir + "/c", Env: []string{"PATH=:" + dir + "/d"}}, 3},
		{"no PATH", Spec{Path: "true"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := wait(t, start(t, r, c.spec)).ExitCode(); got != c.code {
				t.Errorf("got %d, want %d", got, c.code)
			}
		})
	}
}

// What a child has: its arguments, its directory, its environment and nothing
// else, three descriptors, a group of its own.
func TestWhatAChildGets(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	spec := sh(`pwd; echo "$0|$1|$2"; env | grep -e ^X= -e ^PATH= -e ^HOME= | sort; ulimit -n`)
	spec.Args = append(spec.Args, "zero", "", "a b")
	spec.Env = append(spec.Env, "X=1")
	spec.Dir = dir
	_, out := startPiped(t, r, spec)
	got, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	// The runtime raises its own limit; a child gets what was there before, as
	// with os/exec.
	limit, err := exec.Command("sh", "-c", "ulimit -n").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := dir + "\nzero||a b\n" + spec.Env[0] + "\nX=1\n" + string(limit)
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// Descriptors as from os/exec: the three, what is inherited by all, and
	// the directory that ls reads.
	theirs, err := exec.Command("ls", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.Open(dir) // not inherited
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	c, out := startPiped(t, r, Spec{Path: "sh", Args: []string{"-c", "ls /proc/self/fd; cat"}})
	if group, err := unix.Getpgid(c.Pid()); err != nil || group != c.Pid() {
		t.Errorf("group %d of child %d, %v", group, c.Pid(), err)
	}
	if got, err := io.ReadAll(out); err != nil || string(got) != string(theirs) {
		t.Errorf("%q, %v, os/exec: %q", got, err, theirs)
	}
}

func TestNoEnvironmentIsNone(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	_, out := startPiped(t, r, Spec{Path: "env"})
	if got, err := io.ReadAll(out); err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOverTheLimitOfProcesses(t *testing.T) {
	runHelper(t, "limit", func(cmd *exec.Cmd) {
		if os.Getuid() != 0 {
			return
		}
		// Root has no limit. Nobody else uses this number.
		const nobody = 1<<30 + 1
		cmd.Path = "/proc/self/exe"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}}
	})
}

// openTerminal makes a pseudo terminal.
func openTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(filepath.Join("/dev/pts", strconv.Itoa(number)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestTerminalIsHandedOver(t *testing.T) {
	noLeaks(t)
	master, slave := openTerminal(t)
	typed := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(master).ReadString('\n')
		if err == nil && !strings.Contains(line, "from the background") {
			err = errors.New(line)
		}
		_, werr := master.WriteString("hello\n")
		typed <- errors.Join(err, werr)
	}()
	runHelper(t, "terminal", func(cmd *exec.Cmd) {
		cmd.Stdin = slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	})
	if err := <-typed; err != nil {
		t.Error(err)
	}
}

// A terminal that is somebody else's is no reason not to start.
func TestTerminalOfSomebodyElse(t *testing.T) {
	noLeaks(t)
	_, slave := openTerminal(t)
	runHelper(t, "notty", func(cmd *exec.Cmd) {
		cmd.Stdin = slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	})
}
