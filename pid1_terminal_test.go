package main_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/test/programtest"
)

// onTerminal is a watchdog in a session of its own, whose stdin is a terminal.
type onTerminal struct {
	*instance
	master *os.File
}

func launchOnTerminal(t testing.TB, cmd *exec.Cmd, env ...string) *onTerminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	defer slave.Close()

	cmd.Stdin = slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	w := launchCmd(t, cmd, env...)
	return &onTerminal{w, master}
}

// The terminal is the handler's: it may read from it, run jobs on it, and gets
// what is typed; the watchdog may still write there, and outlives its end.
func TestInitHandsTheTerminalOver(t *testing.T) {
	for name, command := range map[string]func(testing.TB, string) *exec.Cmd{
		"pid1":      namespaced,
		"subreaper": func(_ testing.TB, program string) *exec.Cmd { return exec.Command(program) },
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := launchOnTerminal(t, command(t, fwatchdog(t)), family(t)...)
			w.waitReady()
			p := w.background("GET", "/terminal", "")
			if _, err := w.master.WriteString("hello\n"); err != nil {
				t.Fatal(err)
			}
			a, err := p.wait(t)
			wantWhole(t, a, err, "in front: true\njob: exit status 5\nline: \"hello\\n\" <nil>\n")

			// Ctrl-C is for who is in front, and the watchdog is not.
			if _, err := w.master.Write([]byte{3}); err != nil {
				t.Fatal(err)
			}
			w.wantLine("handler SIGINT")
			if state := w.do("GET", "/_/ready", "").StatusCode; state != 200 {
				t.Errorf("ready is %d after Ctrl-C", state)
			}
			// A session leader that forks may be sent HUP and CONT for its
			// terminal; the handler has done nothing to get them.
			if out := w.stdout.String(); strings.Contains(out, "SIGHUP") || strings.Contains(out, "SIGCONT") {
				t.Errorf("signals of the hand-over reached the handler:\n%s", out)
			}
			w.master.Close()
			w.wantLine("handler SIGHUP")
			if code := w.do("GET", "/status", "").StatusCode; code != 200 {
				t.Errorf("status %d after the terminal is gone", code)
			}
			w.stop()
			w.wantLine("handler SIGTERM")
		})
	}
}

// Logs go to the terminal also where writers of the background are stopped.
func TestInitWritesToTheTerminalItGaveAway(t *testing.T) {
	parallel(t)
	cmd := exec.Command("sh", "-c", `stty tostop && exec "$0" 2>/dev/tty`, fwatchdog(t))
	w := launchOnTerminal(t, cmd, family(t)...)
	var seen output
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := w.master.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	w.waitReady()
	w.signal(syscall.SIGTERM)
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	programtest.Eventually(t, "the last line stands on the terminal", func() bool {
		return strings.Contains(seen.String(), "Exiting")
	})
}
