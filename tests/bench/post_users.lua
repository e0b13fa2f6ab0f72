-- for wrk: each request imports one user that no other request has; the argument distinguishes runs

local sent = 0
local refused = 0

function init(arguments)
  run = arguments[1]
end

function request()
  sent = sent + 1
  local user = string.format(
    '{"email":"%s.%d@example.org","name":"Ada","role":"reader","active":true}', run, sent)
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"},
    '{"resource":"users","records":[' .. user .. ']}')
end

function response(status, headers, body)
  if status ~= 202 then
    error("status " .. status .. ": " .. body)
  end
end
