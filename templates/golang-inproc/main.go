// The program around a function that is its own watchdog.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/weir-run/weir/watchdog"

	"handler/function"
)

func main() {
	// The first TERM or INT drains; once it has come the next one kills.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, err := watchdog.FromEnv(os.Environ(), watchdog.ModeInproc)
	if err != nil {
		return err
	}
	cfg.Handler = http.HandlerFunc(function.Handle)
	w, err := watchdog.New(cfg)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Listen(); err != nil {
		return err
	}
	return w.Run(ctx)
}
