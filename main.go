// Command fwatchdog is the entrypoint of a function's container. Its settings
// are environment variables: docs/CONFIG.md.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/weir-run/weir/watchdog"
	"golang.org/x/sys/unix"
)

var version, commit, defaultMode = "dev", "unknown", string(watchdog.ModeStreaming) // set at link time

func main() {
	showVersion := flag.Bool("version", false, "print the version and exit")
	probe := flag.Bool("run-healthcheck", false, "exit 0 when the lock file is there, else 1: for exec probes")
	flag.Parse()
	switch {
	case *probe:
		os.Exit(watchdog.Probe(os.Environ(), os.Stderr))
	case *showVersion:
		log.Printf("Version: %s\tSHA: %s", version, commit)
	default:
		os.Exit(watchdog.ExitCode(run()))
	}
}

// run owns the signals: the first TERM or INT drains, the second kills.
func run() error {
	cfg, err := watchdog.FromEnv(os.Environ(), watchdog.Mode(defaultMode))
	if err != nil {
		log.Printf("Version: %s\tSHA: %s\n%v", version, commit, err)
		return err
	}
	w, err := watchdog.New(cfg)
	if err != nil {
		return err
	}
	w.Version, w.Commit, w.ReapOrphans = version, commit, true
	defer w.Close()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a log reader that leaves is no reason to die
	ctx, drain := context.WithCancelCause(context.Background())
	go func() {
		drain(errors.New(unix.SignalName((<-signals).(syscall.Signal))))
		<-signals
		w.Kill()
	}()
	if err := w.Listen(); err != nil {
		return err
	}
	return w.Run(ctx)
}
