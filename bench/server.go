package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is a process that is measured.
type server struct {
	name, addr string
	metrics    string // the address of /metrics, of a watchdog
	cmd        *exec.Cmd
	cancel     context.CancelFunc
	exited     chan error
	out        tail
}

// Bounds of a server's start and stop; both take milliseconds when all is well.
const (
	startTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
)

// startServer starts argv and waits until addr answers HTTP. Its output goes
// to a pipe that is read, as a container's runtime does, or with quiet to
// /dev/null.
func startServer(ctx context.Context, name, addr string, quiet bool, env []string, argv ...string) (*server, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{name: name, addr: addr, cancel: cancel, exited: make(chan error, 1)}
	s.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, env...)
	if !quiet {
		s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	}
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = stopTimeout
	// Not the bench's group: an interrupt from the terminal reaches the bench
	// alone, which stops them in order.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	if err := s.answers(ctx); err != nil {
		s.stop()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, s.out.String())
	}
	return s, nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// stop ends the process and waits for it.
func (s *server) stop() {
	s.cancel()
	<-s.exited
	_ = unix.Kill(-s.pid(), unix.SIGKILL) // what it may have left in its group
}

// answers waits until a GET is answered with less than 500.
func (s *server) answers(ctx context.Context) error {
	last := error(nil)
	for began := time.Now(); time.Since(began) < startTimeout; {
		select {
		case err := <-s.exited:
			s.exited <- err
			return fmt.Errorf("ended before it answered: %v", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		var a answer
		if a, last = get(s.addr, "/"); last == nil {
			if a.status < 500 {
				return nil
			}
			last = fmt.Errorf("status %d", a.status)
		}
	}
	return fmt.Errorf("no answer in %v: %w", startTimeout, last)
}

// get makes one small request on a connection of its own.
func get(addr, path string) (answer, error) {
	conn, err := net.DialTimeout("tcp4", addr, time.Second)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := conn.Write(request("GET", path, "")); err != nil {
		return answer{}, err
	}
	buf := make([]byte, maxAnswer)
	for n := 0; ; {
		m, err := conn.Read(buf[n:])
		n += m
		if a, short := parseAnswer(buf[:n]); short != errShort {
			return a, short
		}
		if err != nil {
			return answer{}, err
		}
	}
}

// processCPU is the CPU time, user and system, that process pid has used so
// far, without its children, from the kernel's nanosecond clock of it. Zero
// for pid 0.
func processCPU(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	var t unix.Timespec
	// The number of a process's CPU clock, as clock_getcpuclockid(3) makes it.
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// memory is a line of /proc/PID/status, such as VmRSS or VmHWM, in bytes.
func (s *server) memory(line string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid()))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), line+":")
	if !ok {
		return 0, fmt.Errorf("no %s of process %d", line, s.pid())
	}
	fields := strings.Fields(rest)
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}

// tail keeps the last of what a process said, for the message when it fails.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) >= maxTail {
		t.buf = append(t.buf[:0], p[len(p)-maxTail:]...)
		return len(p), nil
	}
	if over := len(t.buf) + len(p) - maxTail; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
	}
	t.buf = append(t.buf, p...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
