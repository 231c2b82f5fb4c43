// Command fork is a handler for the modes that start a process per request.
// Its first argument says what it does. RECORD is a file that gets the value
// of Http_X_Id when it starts.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	record()
	args := append(os.Args[1:], "", "", "")
	switch args[0] {
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "slowcat": // DURATION
		body, _ := io.ReadAll(os.Stdin)
		pause(args[1])
		os.Stdout.Write(body)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "args":
		fmt.Print(strings.Join(os.Args[2:], "|"))
	case "exit": // CODE [TEXT]: reads all, writes TEXT, exits
		io.Copy(io.Discard, os.Stdin)
		fmt.Print(args[2])
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	case "stderr": // TEXT
		io.Copy(io.Discard, os.Stdin)
		fmt.Fprintln(os.Stderr, args[1])
		fmt.Print("out")
	case "raise": // dies of a signal
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		pause("1m")
	case "sleep": // DURATION [TEXT]: writes TEXT first
		fmt.Print(args[2])
		pause(args[1])
	case "deaf": // closes stdin unread, answers
		os.Stdin.Close()
		fmt.Print("ok")
	case "until": // FILE: first line at once, last line when FILE exists
		fmt.Println("first")
		for {
			if _, err := os.Stat(args[1]); err == nil {
				break
			}
			pause("5ms")
		}
		fmt.Println("last")
	case "line": // N [stdout]: one line of N bytes to stderr
		n, _ := strconv.Atoi(args[1])
		os.Stderr.Write(append(bytes.Repeat([]byte("x"), n), '\n'))
		fmt.Print("logged")
	case "grandchild": // DURATION: leaves one that holds stdout, and waits too
		leave(args[1], false)
		pause(args[1])
	case "orphan": // DURATION: leaves one of another session that holds stdout
		leave(args[1], true)
		fmt.Print("done")
	default:
		fmt.Fprintf(os.Stderr, "what is %q?\n", args[0])
		os.Exit(2)
	}
}

func pause(text string) {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	time.Sleep(d)
}

func leave(duration string, session bool) {
	cmd := exec.Command(os.Args[0], "sleep", duration)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

func record() {
	name, id := os.Getenv("RECORD"), os.Getenv("Http_X_Id")
	if name == "" || id == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintf(f, "{\"ID\":%q}\n", id)
		f.Close()
	}
}
