// Command bench measures fwatchdog and weir beside what they replace, in one run
// on one machine, and holds every figure against its bound. Single numbers of a
// machine mean little, so systems are measured in turns and judged by the
// median of the ratios of a turn.
//
//	go run ./bench                          beside bare net/http programs
//	go run ./bench -peer path/to/of-watchdog   and beside of-watchdog
//	go run ./bench -only gateway               weir alone
//	go run ./bench -only async                 its asynchronous calls alone
//	go run ./bench -sweep docs/backpressure    the curves of docs/BACKPRESSURE.md
//
// It prints a Markdown table and exits 1 when a bound is missed.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// settings are the flags.
type settings struct {
	fwatchdog, weir string
	peer, classic   string
	only            string
	sweepTo         string
	time            time.Duration
	rounds, queued  int
	quiet           bool
	// self is this program, for roles; dir is a folder for the run.
	self, dir string
}

// errMissed ends a run in which a bound was missed; the table says which.
var errMissed = errors.New("a bound was missed")

func main() {
	if len(os.Args) > 3 && os.Args[1] == "role" {
		if err := roles[os.Args[2]](os.Args[3], os.Args[4:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var s settings
	flag.StringVar(&s.fwatchdog, "fwatchdog", "", "the fwatchdog to measure; built from the source when empty")
	flag.StringVar(&s.weir, "weir", "", "the weir to measure; built from the source when empty")
	flag.StringVar(&s.peer, "peer", os.Getenv("PEER"), "an of-watchdog to measure beside it ($PEER)")
	flag.StringVar(&s.classic, "classic", os.Getenv("PEER_CLASSIC"), "a classic-watchdog to measure beside it ($PEER_CLASSIC)")
	flag.StringVar(&s.only, "only", "", "run only the cases whose name contains this")
	flag.DurationVar(&s.time, "time", 500*time.Millisecond, "length of one turn of one system")
	flag.IntVar(&s.rounds, "rounds", 11, "turns of each system in a case")
	flag.IntVar(&s.queued, "queued", queuedCalls, "how many calls the case of queued ones has")
	flag.BoolVar(&s.quiet, "quiet", false, "send the watchdogs' logs to /dev/null instead of a pipe")
	flag.StringVar(&s.sweepTo, "sweep", "", "measure nothing but the curves of docs/BACKPRESSURE.md, into this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := s.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (s settings) run(ctx context.Context) error {
	var err error
	if s.self, err = os.Executable(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	if err := s.build(ctx); err != nil {
		return err
	}
	if s.sweepTo != "" {
		return s.sweep(ctx, s.sweepTo)
	}
	r := &report{machine: machine()}
	for _, c := range cases {
		if !strings.Contains(c.name, s.only) {
			continue
		}
		fmt.Fprintln(os.Stderr, "bench:", c.name)
		r.begin(c.name)
		if err := c.run(ctx, s, r); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			fmt.Fprintln(os.Stderr, err)
			r.fault(err)
		}
	}
	r.print(os.Stdout)
	if r.missed {
		return errMissed
	}
	return nil
}

// machine says what the figures were measured on, and how busy it was with
// other things: rates of a machine whose load is above its processors say how
// those were scheduled.
func machine() string {
	var name unix.Utsname
	_ = unix.Uname(&name)
	load, _ := os.ReadFile("/proc/loadavg")
	before, _, _ := strings.Cut(string(load), " ")
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return fmt.Sprintf("%d processors, %s %s, %s, load average before: %s",
		runtime.NumCPU(), unix.ByteSliceToString(name.Sysname[:]), release, runtime.Version(), before)
}

// build makes the programs that no flag names, as their images do.
func (s *settings) build(ctx context.Context) error {
	for _, program := range []struct {
		path      *string
		name, pkg string
		tags      string
		wanted    bool
	}{
		{&s.fwatchdog, ours, "github.com/weir-run/weir", "nethttpomithttp2", true},
		{&s.weir, gateway, "github.com/weir-run/weir/cmd/weir", "", s.sweepTo == "" && s.needsWeir()},
	} {
		if *program.path != "" || !program.wanted {
			continue
		}
		*program.path = filepath.Join(s.dir, program.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", program.tags,
			"-ldflags", "-s -w -buildid=", "-o", *program.path, program.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build of %s: %w\n%s", program.name, err, out)
		}
	}
	return nil
}

// role is the command of one of the bench's own programs.
func (s settings) role(name, addr string, args ...string) []string {
	return append([]string{s.self, "role", name, addr}, args...)
}

// watchdog starts a watchdog, ours or a peer's, with env besides what every
// one of them is given.
func (s settings) watchdog(ctx context.Context, name, path string, env ...string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	metrics, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	_, metricsPort, _ := strings.Cut(metrics, ":")
	env = append([]string{
		"port=" + port,
		"metrics_port=" + metricsPort, // theirs is 8081 whatever this says
		"healthcheck_interval=1ms",
		"suppress_lock=true",
	}, env...)
	srv, err := startServer(ctx, name, addr, s.quiet, env, path)
	if err == nil {
		srv.metrics = metrics
	}
	return srv, err
}

// own starts one of the bench's own programs.
func (s settings) own(ctx context.Context, name, role string, args ...string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	argv := s.role(role, addr, args...)
	return startServer(ctx, cmp.Or(name, role), addr, s.quiet, nil, argv...)
}
