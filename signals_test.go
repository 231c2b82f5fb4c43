package main_test

import (
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Go ends a program that writes to a broken pipe as its standard error.
func TestALogReaderThatLeavesDoesNotEndTheWatchdog(t *testing.T) {
	parallel(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `exec "$0" 2>&3`, fwatchdog(t))
	cmd.ExtraFiles = []*os.File{writer}
	w := launchCmd(t, cmd, "fprocess=cat", "healthcheck_interval=0")
	_ = writer.Close()
	w.waitReady()
	_ = reader.Close()
	for range 3 {
		if got := w.do(http.MethodPost, "/", "still here"); got.StatusCode != http.StatusOK {
			t.Fatalf("after the log's reader left: %d", got.StatusCode)
		}
	}
	w.stop()
}

// HUP ended a watchdog without a child with 129, QUIT with a stack dump.
func TestSignalsForAHandlerDoNotEndAWatchdogWithoutOne(t *testing.T) {
	parallel(t)
	w := start(t, "fprocess=cat")
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH} {
		w.signal(sig)
		if got := w.do(http.MethodPost, "/", "still here"); got.StatusCode != http.StatusOK || got.body != "still here" {
			t.Fatalf("after %v: %d %q", sig, got.StatusCode, got.body)
		}
	}
	w.stop()
}
