// Command fwatchdog is the entrypoint of a function's container: it starts
// the handler, limits what reaches it, drains it and reports on it. Its
// settings are environment variables: docs/CONFIG.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/watchdog"
)

// Set at link time.
var version, commit, defaultMode = "dev", "unknown", string(watchdog.ModeStreaming)

func main() {
	showVersion := flag.Bool("version", false, "print the version and exit")
	healthcheck := flag.Bool("run-healthcheck", false, "exit 0 when the lock file is there, else 1: for exec probes")
	flag.Parse()
	if *healthcheck && watchdog.Locked(watchdog.LockPath(os.Environ())) {
		os.Exit(0)
	} else if *healthcheck {
		fmt.Fprintln(os.Stderr, "unable to find lock file.")
		os.Exit(1)
	}
	log.Printf("Version: %s\tSHA: %s", version, commit)
	if *showVersion {
		return
	}
	err := run()
	if err != nil {
		log.Print(err)
	}
	os.Exit(watchdog.ExitCode(err))
}

// run owns the signals that stop the program: the first TERM or INT drains,
// the second kills.
func run() (err error) {
	cfg, err := watchdog.FromEnv(os.Environ(), watchdog.Mode(defaultMode))
	if err != nil {
		return err
	}
	w, err := watchdog.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	w.ReapOrphans = true
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
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
