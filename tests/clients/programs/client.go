package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"os"
)

func main() {
	if os.Args[1] == "upload" {
		upload(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	response, err := http.Get(os.Args[2])
	check(err, response)
	out, err := os.Create(os.Args[3])
	check(err, nil)
	_, err = io.Copy(out, response.Body)
	check(err, nil)
}

func upload(form, url, path string) {
	data, err := os.ReadFile(path)
	check(err, nil)
	contentType := "text/csv"
	var body io.Reader = bytes.NewReader(data)
	switch form {
	case "chunked":
		// a reader of a type that net/http does not know has no length
		body = io.MultiReader(body)
	case "form":
		var buffer bytes.Buffer
		writer := multipart.NewWriter(&buffer)
		part, err := writer.CreateFormFile("file", "users.csv")
		check(err, nil)
		part.Write(data)
		writer.Close()
		body, contentType = &buffer, writer.FormDataContentType()
	}
	response, err := http.Post(url, contentType, body)
	check(err, response)
	text, err := io.ReadAll(response.Body)
	check(err, nil)
	fmt.Print(string(text))
}

func check(err error, response *http.Response) {
	if err != nil {
		log.Fatal(err)
	}
	if response != nil && response.StatusCode >= 300 {
		text, _ := io.ReadAll(response.Body)
		log.Fatalf("%d %s", response.StatusCode, text)
	}
}
