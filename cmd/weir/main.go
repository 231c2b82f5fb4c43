// Command weir is a gateway and an autoscaler for functions: plain Deployments
// of a cluster, or processes of this machine. Its settings are environment
// variables: docs/CONFIG-WEIR.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // schedules name zones, and an image from scratch has none

	"github.com/weir-run/weir/provider/local"
)

var version, commit = "dev", "unknown" // set at link time

// keepCommand makes this program the parent of the local provider's replicas.
const keepCommand = "keep"

func main() { begin(func(*weir) {}) }

// begin is main; change is done to weir before it runs.
func begin(change func(*weir)) {
	if len(os.Args) == 3 && os.Args[1] == keepCommand {
		os.Exit(local.Keep(os.Args[2]))
	}
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "weir takes its settings from the environment: docs/CONFIG-WEIR.md\n  -version  print the version and exit")
	}
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *showVersion {
		fmt.Printf("Version: %s\tSHA: %s\n", version, commit)
		return
	}
	if err := run(change); err != nil {
		fmt.Fprintf(os.Stderr, "weir %s: %v\n", version, err)
		os.Exit(1)
	}
}

// run owns the signals: the first TERM or INT drains, the second ends at once.
func run(change func(*weir)) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("argument %q: weir takes its settings from the environment, see docs/CONFIG-WEIR.md", flag.Arg(0))
	}
	s, err := read()
	if err != nil {
		return fmt.Errorf("settings:\n%w", err)
	}
	log := s.logger(os.Stderr)
	for _, name := range unknown(os.Environ()) {
		log.Warn("no such setting: it does nothing, see docs/CONFIG-WEIR.md", "variable", name)
	}
	release, err := claimData(s.DataDir.val)
	if err != nil {
		return err
	}
	defer release()
	w, err := newWeir(s, log)
	if err != nil {
		return err
	}
	change(w)
	if err := w.Listen(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	go func() {
		for range reload {
			w.reload()
		}
	}()
	drain, finish := context.WithCancel(context.Background())
	hurry, now := context.WithCancel(context.Background())
	go func() {
		s := <-signals
		log.Info("told to stop: a second signal ends at once", "signal", s.String())
		finish()
		<-signals
		now()
	}()
	return w.Run(drain, hurry)
}

// logger writes what weir says of itself.
func (s *settings) logger(to *os.File) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel.val}
	if s.LogFormat.val == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}
