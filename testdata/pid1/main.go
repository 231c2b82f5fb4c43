// Command pid1 is a handler for http mode that looks at what an init owes its
// children: signals, a terminal, the burial of orphans. It prints a line for
// each thing that happens to it.
//
// LISTEN is its address. WITH=grandchild makes it start another process of its
// group, which prints its signals too. DEAF makes both ignore TERM.
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "grandchild":
			report("grandchild")
			select {}
		case "leave":
			leave(os.Args[2], os.Args[3], os.Args[4])
			return
		}
	}
	report("handler")
	if os.Getenv("WITH") == "grandchild" {
		cmd := exec.Command(os.Args[0], "grandchild")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		must(cmd.Start())
		go cmd.Wait()
	}
	http.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		os.Exit(number(r, "code"))
	})
	http.HandleFunc("/raise", func(_ http.ResponseWriter, r *http.Request) {
		signal.Reset()
		must(syscall.Kill(os.Getpid(), syscall.Signal(number(r, "signal"))))
		select {}
	})
	http.HandleFunc("/until", until)
	http.HandleFunc("/orphans", orphans)
	http.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) {
		status, err := os.ReadFile("/proc/self/status")
		must(err)
		w.Write(status)
	})
	http.HandleFunc("/terminal", terminal)
	must(http.ListenAndServe(os.Getenv("LISTEN"), nil))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

func number(r *http.Request, name string) int {
	n, err := strconv.Atoi(r.FormValue(name))
	must(err)
	return n
}

// report prints every signal but those that the runtime and children cause.
// TERM ends the process unless DEAF is set.
func report(who string) {
	got := make(chan os.Signal, 100)
	signal.Notify(got)
	go func() {
		for s := range got {
			if s == syscall.SIGURG || s == syscall.SIGCHLD {
				continue
			}
			fmt.Println(who, unix.SignalName(s.(syscall.Signal)))
			if s == syscall.SIGTERM && os.Getenv("DEAF") == "" {
				os.Exit(0)
			}
		}
	}()
	fmt.Println(who, "up")
}

// until answers when a file exists.
func until(w http.ResponseWriter, r *http.Request) {
	fmt.Println("handler asked")
	for {
		if _, err := os.Stat(r.FormValue("file")); err == nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	fmt.Println("handler answers")
	fmt.Fprint(w, "done")
}

// orphans runs a process that leaves n others behind.
func orphans(w http.ResponseWriter, r *http.Request) {
	cmd := exec.Command(os.Args[0], "leave", r.FormValue("n"), r.FormValue("session"), r.FormValue("program"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		http.Error(w, err.Error()+"\n"+string(out), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "left")
}

func leave(count, session, program string) {
	n, err := strconv.Atoi(count)
	must(err)
	words := strings.Fields(program)
	for range n {
		cmd := exec.Command(words[0], words[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: session != ""}
		must(cmd.Start())
	}
}

// terminal says whether this process has the terminal, gives it to another and
// takes it back, as a shell does with its jobs, and reads a line from it.
func terminal(w http.ResponseWriter, _ *http.Request) {
	front, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	must(err)
	fmt.Fprintln(w, "in front:", front == unix.Getpgrp())
	cmd := exec.Command("sh", "-c", "exit 5")
	cmd.Stdin = os.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
	job := cmd.Run()
	signal.Ignore(syscall.SIGTTOU)
	must(unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp()))
	fmt.Fprintln(w, "job:", job)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Fprintf(w, "line: %q %v\n", line, err)
}
